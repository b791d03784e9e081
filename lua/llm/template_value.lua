--- llm.template_value: Python's values and operators, as templates see them.
--
-- string  Lua string (UTF-8, indexed by code point)
-- int     number without fraction, or json.int; bool is a kind of int
-- float   number with fraction, or json.float
-- None    json.null; undefined is a table of kind "undefined"
-- list    json array; kinds "tuple", "gen" (a generator: always true, no
--         len) and "view" (dict.keys() ...) share its layout
-- dict    canonical json object
-- others  tables whose metatable has a kind: "callable", "namespace", "loop"
--
-- Values are never changed after they are made, as in Jinja's immutable
-- sandbox; only namespaces are.

local json = require "llm.json"
local limits = require "llm.template_limits"
local unicode = require "llm.unicode"

local value = {}

local null = json.null
local getmt = debug.getmetatable
local floor, huge = math.floor, math.huge
local find, format, rep, sub = string.find, string.format, string.rep,
    string.sub
local concat = table.concat
local type, rawget, setmetatable = type, rawget, setmetatable
local charge, bytes, fail = limits.charge, limits.bytes, limits.fail

local function type_error(message)
    fail("invalid operation", message)
end
value.type_error = type_error

-- Kinds ----------------------------------------------------------------------

local UNDEFINED_MT = { __metatable = false, kind = "undefined" }
local TUPLE_MT = { __metatable = false, kind = "tuple" }
local GEN_MT = { __metatable = false, kind = "gen" }
local CALLABLE_MT = { __metatable = false, kind = "callable" }
local NAMESPACE_MT = { __metatable = false, kind = "namespace" }
local LOOP_MT = { __metatable = false, kind = "loop" }

local VIEW_MT = {}
for _, name in ipairs { "dict_keys", "dict_values", "dict_items" } do
    VIEW_MT[name] = { __metatable = false, kind = "view", name = name }
end

--- Undefined; message (of a kind, "undefined value") is the error of using it.
function value.undefined(message, kind)
    return setmetatable({ message = message, kind = kind }, UNDEFINED_MT)
end
function value.tuple(t)
    return setmetatable(t, TUPLE_MT)
end
function value.gen(t)
    return setmetatable(t, GEN_MT)
end
function value.view(t, name)
    return setmetatable(t, VIEW_MT[name])
end
--- call(args, kw): args is a plain list, kw nil or {names, map}
function value.callable(name, call)
    return setmetatable({ name = name, call = call }, CALLABLE_MT)
end
function value.namespace(fields)
    return setmetatable({ fields = fields }, NAMESPACE_MT)
end
function value.loop(t)
    return setmetatable(t, LOOP_MT)
end
value.list = json.array
value.dict = json.object

--- "string", "number", "boolean", or the kind of a table
local function kind(v)
    local t = type(v)
    if t == "table" then
        return getmt(v).kind
    end
    return t
end
value.kind = kind

local SEQUENCE = { array = true, tuple = true, gen = true, view = true }
value.SEQUENCE = SEQUENCE

local function is_undefined(v)
    return type(v) == "table" and getmt(v) == UNDEFINED_MT
end
value.is_undefined = is_undefined

local function undefined_error(v)
    fail(v.kind or "undefined value", v.message)
end
value.undefined_error = undefined_error

local TYPE_NAMES = {
    string = "str", boolean = "bool", null = "NoneType", array = "list",
    object = "dict", tuple = "tuple", gen = "generator", int = "int",
    float = "float", undefined = "Undefined", callable = "function",
    namespace = "Namespace", loop = "LoopContext",
}

--- Python's name of the type of v.
local function type_name(v)
    local k = kind(v)
    if k == "number" then
        return v == floor(v) and v - v == 0 and "int" or "float"
    elseif k == "view" then
        return getmt(v).name
    end
    return TYPE_NAMES[k]
end
value.type_name = type_name

-- Numbers --------------------------------------------------------------------

--- The number that v is and whether it is a float; nil if v is none.
local function number(v)
    local t = type(v)
    if t == "number" then
        return v, v ~= floor(v) or v - v ~= 0
    elseif t == "boolean" then
        return v and 1 or 0, false
    elseif t == "table" then
        local k = getmt(v).kind
        if k == "int" then
            return rawget(v, "v"), false
        elseif k == "float" then
            return rawget(v, "v"), true
        end
    end
    return nil
end
value.number = number

--- The int of n, refused where a double is no longer exact.
local function int(n)
    if n > json.MAX_INT or n < -json.MAX_INT then
        fail("invalid operation", "integer beyond 2**53")
    end
    return n + 0
end
value.int = int
value.float = json.float

local function wrap(n, is_float)
    if is_float then
        return json.float(n)
    end
    return int(n)
end

--- v as an index or count; raises what + Python's words otherwise.
function value.need_int(v)
    local n, is_float = number(v)
    if not n or is_float then
        if is_undefined(v) then
            undefined_error(v)
        end
        type_error("'" .. type_name(v)
                   .. "' object cannot be interpreted as an integer")
    end
    return n
end

-- Text -----------------------------------------------------------------------

local REPR = { ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r",
               ["\t"] = "\\t" }

-- Invisible characters above ASCII that repr() escapes (the common ones).
local function invisible(code)
    return code <= 0xa0 or code == 0xad or (code >= 0x2000 and code <= 0x200f)
        or (code >= 0x2028 and code <= 0x202f) or code == 0x205f
        or (code >= 0x2060 and code <= 0x206f) or code == 0x3000
        or code == 0x1680 or code == 0xfeff
        or (code >= 0xe000 and code <= 0xf8ff) or code >= 0xe0000
end

local function repr_char(c)
    local code = unicode.decode(c, 1) or 0xfffd
    if code >= 128 and not invisible(code) then
        return c
    elseif code < 256 then
        return format("\\x%02x", code)
    elseif code < 65536 then
        return format("\\u%04x", code)
    end
    return format("\\U%08x", code)
end

local function repr_string(s)
    bytes(#s)
    local quote = "'"
    if find(s, "'", 1, true) and not find(s, '"', 1, true) then
        quote = '"'
    end
    s = s:gsub("[\\\n\r\t]", REPR)
    if quote == "'" then
        s = s:gsub("'", "\\'")
    end
    if find(s, "[%z\1-\31\127-\255]") then
        s = s:gsub("[%z\1-\31\127]", repr_char)
        s = s:gsub("[\192-\255][\128-\191]*", repr_char)
    end
    return quote .. s .. quote
end

local repr

local function repr_items(v, open, close)
    local parts = {}
    charge(#v)
    for i = 1, #v do
        parts[i] = repr(v[i])
    end
    local text = concat(parts, ", ")
    bytes(#text)
    if open == "(" and #v == 1 then
        text = text .. ","
    end
    return open .. text .. close
end

local function repr_dict(v, open, close)
    local parts = {}
    local keys = json.canonical_keys(v)
    charge(#keys)
    for i = 1, #keys do
        parts[i] = repr(keys[i]) .. ": " .. repr(rawget(v, keys[i]))
    end
    local text = concat(parts, ", ")
    bytes(#text)
    return open .. text .. close
end

local function str_number(n)
    if n == floor(n) and n - n == 0 then
        return format("%.0f", n + 0)
    end
    return json.repr_float(n)
end

local REPR_KIND = {
    string = repr_string,
    number = str_number,
    boolean = function(v) return v and "True" or "False" end,
    null = function() return "None" end,
    undefined = function() return "Undefined" end,
    int = function(v) return rawget(v, "s") end,
    float = function(v) return json.repr_float(rawget(v, "v")) end,
    array = function(v) return repr_items(v, "[", "]") end,
    tuple = function(v) return repr_items(v, "(", ")") end,
    view = function(v)
        return getmt(v).name .. repr_items(v, "([", "])")
    end,
    object = function(v) return repr_dict(v, "{", "}") end,
    gen = function() return "<generator object>" end,
    callable = function(v)
        return v.macro and "<Macro " .. repr(v.name) .. ">"
               or "<function " .. v.name .. ">"
    end,
    loop = function(v)
        return format("<LoopContext %d/%d>", v.index, v.length)
    end,
    namespace = function(v)
        return "<Namespace " .. repr_dict(v.fields, "{", "}") .. ">"
    end,
}

--- Python's repr(v).
function repr(v)
    return REPR_KIND[kind(v)](v)
end
value.repr = repr

--- Python's str(v): what {{ v }} prints.
local function str(v)
    if type(v) == "string" then
        return v
    elseif is_undefined(v) then
        return ""
    end
    return REPR_KIND[kind(v)](v)
end
value.str = str

--- v if it is a string; otherwise its str(), as filters do.
function value.need_string(v, what)
    if type(v) ~= "string" then
        if is_undefined(v) then
            undefined_error(v)
        end
        type_error((what or "argument") .. " must be str, not "
                   .. type_name(v))
    end
    return v
end

-- Truth, equality, order -----------------------------------------------------

--- Python's bool(v).
local function truth(v)
    local t = type(v)
    if t == "boolean" then
        return v
    elseif t == "string" then
        return v ~= ""
    elseif t == "number" then
        return v ~= 0
    end
    local k = getmt(v).kind
    if k == "null" or k == "undefined" then
        return false
    elseif k == "array" or k == "tuple" or k == "view" then
        return v[1] ~= nil
    elseif k == "object" then
        return json.canonical_keys(v)[1] ~= nil
    elseif k == "int" or k == "float" then
        return rawget(v, "v") ~= 0
    end
    return true
end
value.truth = truth

local equal

local function equal_tables(a, b)
    local ka, kb = getmt(a).kind, getmt(b).kind
    if ka ~= kb then
        return false
    elseif ka == "undefined" then
        return true
    elseif ka == "array" or ka == "tuple" then
        if #a ~= #b then
            return false
        end
        charge(#a)
        for i = 1, #a do
            if not equal(a[i], b[i]) then
                return false
            end
        end
        return true
    elseif ka == "object" then
        local keys = json.canonical_keys(a)
        if #keys ~= #json.canonical_keys(b) then
            return false
        end
        charge(#keys)
        for i = 1, #keys do
            local other = rawget(b, keys[i])
            if other == nil or not equal(rawget(a, keys[i]), other) then
                return false
            end
        end
        return true
    end
    return false
end

--- Python's a == b.
function equal(a, b)
    if rawequal(a, b) then
        return true
    end
    local na, nb = number(a), number(b)
    if na or nb then
        if kind(a) == "int" and kind(b) == "int" then
            return rawget(a, "s") == rawget(b, "s")
        end
        return na == nb
    elseif type(a) == "table" and type(b) == "table" then
        return equal_tables(a, b)
    end
    return false
end
value.equal = equal

local compare

local function compare_lists(a, b)
    for i = 1, math.min(#a, #b) do
        charge(1)
        if not equal(a[i], b[i]) then
            return compare("<", a[i], b[i])
        end
    end
    return #a - #b
end

--- Negative, 0 or positive; op is named in the error if they have no order.
function compare(op, a, b)
    local na, nb = number(a), number(b)
    if na and nb then
        if na ~= na or nb ~= nb then
            return 0 / 0
        end
        return na < nb and -1 or na > nb and 1 or 0
    end
    local ka, kb = kind(a), kind(b)
    if ka == "string" and kb == "string" then
        return a < b and -1 or a > b and 1 or 0
    elseif ka == kb and (ka == "array" or ka == "tuple") then
        return compare_lists(a, b)
    elseif ka == "undefined" then
        undefined_error(a)
    elseif kb == "undefined" then
        undefined_error(b)
    end
    type_error(format("'%s' not supported between instances of '%s' and '%s'",
                      op, type_name(a), type_name(b)))
end
value.compare = compare

-- Strings in strings ---------------------------------------------------------

local CHUNK = 32

--- Plain find, charged by what it looked at.  A long needle is looked for
-- by its head, so that one call of string.find stays cheap.
function value.find(s, what, from)
    from = from or 1
    local long = #what > CHUNK
    local head = long and sub(what, 1, CHUNK) or what
    local weight = (#head + 1) / 1024
    while true do
        local at, stop = find(s, head, from, true)
        charge(((at or #s + 1) - from) * weight + 0.1)
        if not at or not long then
            return at, stop
        end
        charge(#what / 64 + 1)
        if sub(s, at, at + #what - 1) == what then
            return at, at + #what - 1
        end
        from = at + 1
    end
end

--- Python's item in container.
function value.contains(container, item)
    local k = kind(container)
    if k == "string" then
        if type(item) ~= "string" then
            if is_undefined(item) then
                undefined_error(item)
            end
            type_error("'in <string>' requires string as left operand, not "
                       .. type_name(item))
        end
        return item == "" or value.find(container, item) ~= nil
    elseif SEQUENCE[k] then
        charge(#container)
        for i = 1, #container do
            if equal(container[i], item) then
                return true
            end
        end
        return false
    elseif k == "object" then
        return rawget(container, value.key(item)) ~= nil
    elseif k == "undefined" then
        return false
    end
    type_error("argument of type '" .. type_name(container)
               .. "' is not iterable")
end

-- Containers -----------------------------------------------------------------

--- The table key for a dict key.
function value.key(v)
    local t = type(v)
    if t ~= "table" then
        return v
    end
    local k = getmt(v).kind
    if k == "float" then
        return rawget(v, "v")
    elseif k == "null" then
        return v
    elseif k == "undefined" then
        return v
    elseif k == "int" then
        fail("invalid operation", "integer beyond 2**53")
    end
    type_error("unhashable type: '" .. type_name(v) .. "'")
end

--- The items of v as a list to read.
local function items(v)
    local k = kind(v)
    if SEQUENCE[k] then
        return v
    elseif k == "string" then
        bytes(#v)
        charge(#v)
        return unicode.chars(v)
    elseif k == "object" then
        return json.canonical_keys(v)
    elseif k == "undefined" then
        return {}
    end
    type_error("'" .. type_name(v) .. "' object is not iterable")
end
value.items = items

--- Python's len(v).
function value.len(v)
    local k = kind(v)
    if k == "string" then
        bytes(#v)
        return unicode.len(v)
    elseif k == "array" or k == "tuple" or k == "view" then
        return #v
    elseif k == "object" then
        return #json.canonical_keys(v)
    elseif k == "undefined" then
        return 0
    elseif k == "loop" then
        return v.length
    end
    type_error("object of type '" .. type_name(v) .. "' has no len()")
end

--- Characters first..last of a string, counted from 1.
function value.substring(s, first, last)
    bytes(#s)
    return unicode.sub(s, first, last)
end

local function slice_bound(v, default, len, low, high)
    if v == nil or v == null then
        return default
    end
    local n, is_float = number(v)
    if not n or is_float then
        if is_undefined(v) then
            undefined_error(v)
        end
        type_error("slice indices must be integers or None or have an "
                   .. "__index__ method")
    end
    if n < 0 then
        n = n + len
    end
    return n < low and low or n > high and high or n
end

--- v[start:stop:step]; absent bounds are nil or None.
function value.slice(v, start, stop, step)
    local k = kind(v)
    if k ~= "string" and k ~= "array" and k ~= "tuple" then
        if k == "undefined" then
            undefined_error(v)
        elseif k == "object" then
            type_error("unhashable type: 'slice'")
        end
        type_error("'" .. type_name(v) .. "' object is not subscriptable")
    end
    local len = value.len(v)
    step = slice_bound(step, 1, 0, -huge, huge)
    if step == 0 then
        type_error("slice step cannot be zero")
    end
    local first, last
    if step > 0 then
        first = slice_bound(start, 0, len, 0, len)
        last = slice_bound(stop, len, len, 0, len)
        if k == "string" and step == 1 then
            return first < last and value.substring(v, first + 1, last) or ""
        end
    else
        first = slice_bound(start, len - 1, len, -1, len - 1)
        last = slice_bound(stop, -1, len, -1, len - 1)
    end
    local source = k == "string" and items(v) or v
    local out, n = {}, 0
    charge(math.max(0, (last - first) / step))
    for i = first, last + (step > 0 and -1 or 1), step do
        n = n + 1
        out[n] = source[i + 1]
    end
    if k == "string" then
        return concat(out)
    end
    return k == "tuple" and value.tuple(out) or value.list(out)
end

-- Arithmetic -----------------------------------------------------------------

local function bad_operands(op, a, b)
    if is_undefined(a) then
        undefined_error(a)
    elseif is_undefined(b) then
        undefined_error(b)
    end
    if op == "+" and type(a) == "string" then
        type_error("can only concatenate str (not \"" .. type_name(b)
                   .. "\") to str")
    elseif op == "+" and kind(a) == "array" then
        type_error("can only concatenate list (not \"" .. type_name(b)
                   .. "\") to list")
    end
    type_error(format("unsupported operand type(s) for %s: '%s' and '%s'",
                      op, type_name(a), type_name(b)))
end

--- a list of the items of a and then of b
function value.join_lists(a, b)
    local out, n = {}, #a
    charge(n + #b)
    for i = 1, n do
        out[i] = a[i]
    end
    for i = 1, #b do
        out[n + i] = b[i]
    end
    return out
end

--- s repeated n times.
function value.repeat_string(s, n)
    if n <= 0 or s == "" then
        return ""
    end
    bytes(#s * n)
    return rep(s, n)
end

local function repeat_list(list, n)
    local out, size, at = {}, #list, 0
    if n > 0 then
        charge(size * n)
        for _ = 1, n do
            for i = 1, size do
                at = at + 1
                out[at] = list[i]
            end
        end
    end
    return kind(list) == "tuple" and value.tuple(out) or value.list(out)
end

local function divide_by_zero(message)
    fail("invalid operation", message)
end

-- a % b with the sign of b, exact as in CPython
local function modulo(a, b)
    local rest = math.fmod(a, b)
    if rest ~= 0 and (b < 0) ~= (rest < 0) then
        rest = rest + b
    end
    return rest
end

local NUMERIC = {
    ["+"] = function(a, b, f) return wrap(a + b, f) end,
    ["-"] = function(a, b, f) return wrap(a - b, f) end,
    ["*"] = function(a, b, f) return wrap(a * b, f) end,
    ["/"] = function(a, b)
        if b == 0 then
            divide_by_zero("division by zero")
        end
        return json.float(a / b)
    end,
    ["//"] = function(a, b, f)
        if b == 0 then
            divide_by_zero("integer division or modulo by zero")
        end
        local quotient = (a - modulo(a, b)) / b
        local whole = floor(quotient)
        return wrap(quotient - whole > 0.5 and whole + 1 or whole, f)
    end,
    ["%"] = function(a, b, f)
        if b == 0 then
            divide_by_zero("integer modulo by zero")
        end
        return wrap(modulo(a, b), f)
    end,
    ["**"] = function(a, b, f)
        if a == 0 and b < 0 then
            divide_by_zero("0.0 cannot be raised to a negative power")
        elseif a < 0 and b ~= floor(b) then
            fail("invalid operation", "complex numbers are not supported")
        end
        return wrap(a ^ b, f or b < 0)
    end,
}

local function add_other(a, b)
    local ka, kb = kind(a), kind(b)
    if ka == "array" and kb == "array" then
        return value.list(value.join_lists(a, b))
    elseif ka == "tuple" and kb == "tuple" then
        return value.tuple(value.join_lists(a, b))
    end
    bad_operands("+", a, b)
end

local function multiply_other(a, b)
    local n, is_float = number(b)
    if not n then
        a, b = b, a
        n, is_float = number(b)
    end
    local k = kind(a)
    if n and not is_float then
        if k == "string" then
            return value.repeat_string(a, n)
        elseif k == "array" or k == "tuple" then
            return repeat_list(a, n)
        end
    end
    bad_operands("*", a, b)
end

--- a op b for + - * / // % **.
function value.binary(op, a, b)
    if op == "+" and type(a) == "string" and type(b) == "string" then
        bytes(#a + #b)
        return a .. b
    elseif op == "%" and type(a) == "string" then
        return require("llm.template_format").percent(a, b)
    end
    local na, fa = number(a)
    local nb, fb = number(b)
    if na and nb then
        return NUMERIC[op](na, nb, fa or fb)
    elseif op == "+" then
        return add_other(a, b)
    elseif op == "*" then
        return multiply_other(a, b)
    end
    bad_operands(op, a, b)
end

--- -v or +v
function value.sign(op, v)
    local n, is_float = number(v)
    if not n then
        if is_undefined(v) then
            undefined_error(v)
        end
        type_error("bad operand type for unary " .. op .. ": '"
                   .. type_name(v) .. "'")
    end
    if kind(v) == "int" and op == "+" then
        return v
    end
    return wrap(op == "-" and -n or n, is_float)
end

-- Arguments of filters, tests, methods ---------------------------------------

--- Binds args and kw to names (a list); missing ones are nil.  Up to five.
-- need: how many must be given.
function value.bind(what, args, kw, names, need)
    local n = #names
    if #args > n then
        fail("too many arguments", format(
            "%s takes at most %d arguments (%d given)", what, n, #args))
    end
    local v = { args[1], args[2], args[3], args[4], args[5] }
    if kw then
        for _, name in ipairs(kw.names) do
            local at
            for i = 1, n do
                if names[i] == name then
                    at = i
                end
            end
            if not at or at <= #args then
                fail("too many arguments", format(
                    "%s got an unexpected keyword argument '%s'", what,
                    name))
            end
            v[at] = kw.map[name]
        end
    end
    for i = 1, need or 0 do
        if v[i] == nil then
            fail("missing argument", format(
                "%s missing required argument '%s'", what, names[i]))
        end
    end
    return v[1], v[2], v[3], v[4], v[5]
end

return value
