--- llm.template_globals: the functions every template can call.

local json = require "llm.json"
local limits = require "llm.template_limits"
local value = require "llm.template_value"
local access = require "llm.template_access"
local methods = require "llm.template_methods"

local globals = {}

local fail, bytes, charge = limits.fail, limits.bytes, limits.charge
local str, null = value.str, json.null
local EMPTY = {}

local function global(name, f)
    globals[name] = value.callable(name, f)
end

local MAX_RANGE = 100000

global("range", function(args, kw)
    local a, b, by = value.bind("range", args, kw,
                                methods.names "start stop step", 1)
    local first = b == nil and 0 or value.need_int(a)
    local last = value.need_int(b == nil and a or b)
    by = by == nil and 1 or value.need_int(by)
    if by == 0 then
        value.type_error("range() arg 3 must not be zero")
    end
    local n = math.max(0, math.ceil((last - first) / by))
    if n > MAX_RANGE then
        fail("invalid operation", "Range too big. The sandbox blocks ranges "
             .. "larger than MAX_RANGE (" .. MAX_RANGE .. ").")
    end
    charge(n)
    local out = {}
    for i = 1, n do
        out[i] = first + (i - 1) * by
    end
    return value.list(out)
end)

-- dict(mapping or pairs, **kw) as a new table and its keys
local function make_dict(args, kw)
    local t, keys = {}, {}
    local function put(key, v)
        key = value.key(key)
        if t[key] == nil then
            keys[#keys + 1] = key
        end
        t[key] = v
        charge(1)
    end
    local from = value.bind("dict", args, nil, { "mapping" })
    if from ~= nil and value.kind(from) == "object" then
        from = value.list(methods.pairs(from))
    end
    for _, pair in ipairs(from ~= nil and value.items(from) or EMPTY) do
        local two = value.items(pair)
        if #two ~= 2 then
            fail("cannot unpack", "dictionary update sequence element has "
                 .. "length " .. #two .. "; 2 is required")
        end
        put(two[1], two[2])
    end
    for _, name in ipairs(kw and kw.names or EMPTY) do
        put(name, kw.map[name])
    end
    return t, keys
end

global("dict", function(args, kw)
    return value.dict(make_dict(args, kw))
end)

global("namespace", function(args, kw)
    local t, keys = make_dict(args, kw)
    local fields = json.object()
    for _, key in ipairs(keys) do
        access.add_field(fields, key, t[key])
    end
    return value.namespace(fields)
end)

global("cycler", function(args)
    if #args == 0 then
        value.type_error("at least one item has to be provided")
    end
    local at = 0
    local fields = json.object({ reset = value.callable("reset", function()
        at = 0
        return null
    end) })
    local cycler = value.namespace(fields)
    rawset(fields, "current", args[1])
    rawset(fields, "next", value.callable("next", function()
        local v = args[at % #args + 1]
        at = at + 1
        rawset(fields, "current", args[at % #args + 1])
        return v
    end))
    return cycler
end)

global("joiner", function(args, kw)
    local sep = value.bind("joiner", args, kw, { "sep" })
    local used = false
    return value.callable("joiner", function()
        if not used then
            used = true
            return ""
        end
        return sep == nil and ", " or sep
    end)
end)

global("raise_exception", function(args, kw)
    local message = value.bind("raise_exception", args, kw, { "message" }, 1)
    fail("syntax error", str(message))
end)

local DATE_LETTERS = "[aAbBcCdDeFgGhHIjklmMnpPrRsStTuUVwWxXyYzZ%%]"

global("strftime_now", function(args, kw)
    local text = value.need_string((value.bind("strftime_now", args, kw,
                                               { "format" }, 1)))
    local now = limits.state.now or os.time()
    bytes(16 * #text)
    return (text:gsub("%%([-_0^#]?)(.?)", function(flag, letter)
        if letter == "f" then
            return "000000"
        elseif not letter:find(DATE_LETTERS) then
            return nil
        end
        return os.date("%" .. flag .. letter, now)
    end))
end)

return globals
