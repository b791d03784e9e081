--- llm.template_limits: what one rendering may use, and how it fails.
--
-- A rendering is synchronous and never nested, so its state is one table
-- here.  Every statement, call and loop turn is a step; every string or list
-- made charges steps for its size.  Work that LuaJIT does inside one C call
-- (find, rep, concat) is charged before it is done.

local limits = {}

local BYTES_PER_STEP = 64

local DEFAULT = {
    steps = 1000000,            -- well below a second of the interpreter
    output = 16 * 1024 * 1024,  -- bytes of the result and of any string
    depth = 60,                 -- macros and recursive loops
}

-- state of the rendering that runs now
local state = { line = 1, left = 0, output = 0, depth = 0, max = DEFAULT }
limits.state = state

--- Starts a rendering; o may lower or raise the defaults.
function limits.start(o)
    local max = {}
    for name, value in pairs(DEFAULT) do
        max[name] = o and o[name] or value
    end
    state.max = max
    state.left = max.steps
    state.depth = 0
    state.line = 1
    state.output = max.output
end

--- Ends the rendering with an error of a kind; shown as
-- "kind: detail (in <string>:line)".
function limits.fail(kind, detail)
    error({ kind = kind, detail = detail, line = state.line }, 0)
end
local fail = limits.fail

local function out_of_steps()
    fail("engine ran out of fuel",
         "more than " .. state.max.steps .. " steps")
end

--- One step at a line.
function limits.step(line)
    state.line = line
    local left = state.left - 1
    state.left = left
    if left < 0 then
        out_of_steps()
    end
end

--- n list items or comparisons.
function limits.charge(n)
    local left = state.left - n
    state.left = left
    if left < 0 then
        out_of_steps()
    end
end

--- A string of n bytes is about to be made.
function limits.bytes(n)
    if n > state.output then
        fail("invalid operation",
             "a string of more than " .. state.output .. " bytes")
    end
    local left = state.left - n / BYTES_PER_STEP
    state.left = left
    if left < 0 then
        out_of_steps()
    end
end

--- Enters a macro or a recursive loop; leave() undoes it.
function limits.enter()
    local depth = state.depth + 1
    if depth > state.max.depth then
        fail("invalid operation",
             "calls nested deeper than " .. state.max.depth)
    end
    state.depth = depth
end

function limits.leave()
    state.depth = state.depth - 1
end

return limits
