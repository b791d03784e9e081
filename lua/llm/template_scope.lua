--- llm.template_scope: scopes and text buffers of a rendering.
--
-- A scope is {vars, up}: names are looked up from the inside out, and set in
-- the scope where {% set %} stands.  Loop turns, macros, {% with %} and
-- blocks that become a string have scopes of their own; {% if %} has none.

local limits = require "llm.template_limits"
local undefined = require("llm.template_value").undefined

local scope = {}

local state, bytes = limits.state, limits.bytes
local concat = table.concat

--- A buffer for text.
function scope.new_out()
    return { n = 0, size = 0 }
end

--- Appends text to a buffer.
function scope.push(out, text)
    local size = out.size + #text
    if size > state.output then
        bytes(size)
    end
    local n = out.n + 1
    out.n, out.size = n, size
    out[n] = text
end

--- All text of a buffer.
function scope.text_of(out)
    bytes(out.size)
    return concat(out, "", 1, out.n)
end

--- A scope inside another.
function scope.new(up)
    return { vars = {}, up = up }
end

--- The value of a name seen from a scope, or undefined.
function scope.lookup(s, name)
    repeat
        local v = s.vars[name]
        if v ~= nil then
            return v
        end
        s = s.up
    until not s
    return undefined("'" .. name .. "' is undefined")
end

return scope
