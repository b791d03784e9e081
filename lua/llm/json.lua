--- llm.json: JSON as Lua values, with the order of object keys kept.
--
-- Owns: how a JSON value looks in Lua, for hooks, templates and the C side:
--   null     json.null, one unique table (true in a condition: compare it)
--   array    a sequence 1..n marked by a metatable, so an empty one stays one
--   object   a table of its keys; their order is in its own metatable
--   integer  a number; beyond 2^53 a json.int (text kept, usable in sums)
--   float    a number; with {floats = true} an integral float is a json.float
-- A table made by hand is an array if it has [1], else an object, and its
-- keys follow in sorted order.  Metatables are hidden from hooks.
--
-- Invariant: a canonical value (decode, normalize, or made in C) is never
-- changed by templates.  Nothing here calls a pattern that input chooses.

local json = {}

local byte, char, find, format, gsub, rep, sub =
    string.byte, string.char, string.find, string.format, string.gsub,
    string.rep, string.sub
local concat, sort = table.concat, table.sort
local floor, huge = math.floor, math.huge
local getmt = debug.getmetatable
local setmetatable, type, next, rawget, tonumber, tostring, error =
    setmetatable, type, next, rawget, tonumber, tostring, error

local MAX_DEPTH = 200
local MAX_INT = 2 ^ 53
local MAX_INT64 = 2 ^ 63                -- what other readers take as integer

json.MAX_INT = MAX_INT

local NULL_MT = {
    __metatable = false, kind = "null",
    __tostring = function() return "null" end,
    __newindex = function() error("llm.null cannot be changed", 2) end,
}
local null = setmetatable({}, NULL_MT)
json.null = null

local ARRAY_MT = { __metatable = false, kind = "array" }

local function unbox(v)
    return type(v) == "table" and rawget(v, "v") or v
end

local function number_mt(kind, text)
    return {
        __metatable = false, kind = kind, __tostring = text,
        __add = function(a, b) return unbox(a) + unbox(b) end,
        __sub = function(a, b) return unbox(a) - unbox(b) end,
        __mul = function(a, b) return unbox(a) * unbox(b) end,
        __div = function(a, b) return unbox(a) / unbox(b) end,
        __mod = function(a, b) return unbox(a) % unbox(b) end,
        __unm = function(a) return -unbox(a) end,
        __lt = function(a, b) return unbox(a) < unbox(b) end,
        __le = function(a, b) return unbox(a) <= unbox(b) end,
        __eq = function(a, b) return unbox(a) == unbox(b) end,
    }
end

--- The shortest text that reads back as v, in Python's repr form.
function json.repr_float(v)
    if v ~= v then
        return "nan"
    elseif v == huge then
        return "inf"
    elseif v == -huge then
        return "-inf"
    elseif v == 0 then
        return 1 / v < 0 and "-0.0" or "0.0"
    end
    local text
    for precision = 1, 17 do
        text = format("%." .. (precision - 1) .. "e", v)
        if tonumber(text) == v then
            break
        end
    end
    local sign, lead, tail, exp = text:match("^(%-?)(%d)%.?(%d*)e([+-]%d+)$")
    exp = tonumber(exp)
    local digits = gsub(lead .. tail, "0+$", "")
    if digits == "" then
        digits = "0"
    end
    if exp < -4 or exp >= 16 then
        local mantissa = sub(digits, 1, 1)
        if #digits > 1 then
            mantissa = mantissa .. "." .. sub(digits, 2)
        end
        return format("%s%se%s%02d", sign, mantissa, exp < 0 and "-" or "+",
                      exp < 0 and -exp or exp)
    elseif exp < 0 then
        return sign .. "0." .. rep("0", -exp - 1) .. digits
    elseif #digits <= exp + 1 then
        return sign .. digits .. rep("0", exp + 1 - #digits) .. ".0"
    end
    return sign .. sub(digits, 1, exp + 1) .. "." .. sub(digits, exp + 2)
end
local repr_float = json.repr_float

local INT_MT = number_mt("int", function(v) return rawget(v, "s") end)
local FLOAT_MT = number_mt("float", function(v)
    return repr_float(rawget(v, "v"))
end)

--- A whole number given as text, exact at any size.
function json.int(text)
    return setmetatable({ s = text, v = tonumber(text) }, INT_MT)
end

--- A float: boxed only if its value alone would look like an integer.
function json.float(v)
    if v ~= floor(v) or v == huge or v == -huge then
        return v
    end
    return setmetatable({ v = v }, FLOAT_MT)
end

--- Marks t (or a new table) as an array.
function json.array(t)
    if t == nil then
        t = {}
    end
    return setmetatable(t, ARRAY_MT)
end

--- Makes a canonical object of t, whose keys in order are keys.
function json.object(t, keys)
    return setmetatable(t or {}, {
        __metatable = false, kind = "object", keys = keys or {},
    })
end
local array, object = json.array, json.object

--- "null", "array", "object", "int", "float", or a kind of another module.
function json.kind(t)
    local mt = getmt(t)
    if mt and mt.kind then
        return mt.kind
    end
    return t[1] ~= nil and "array" or "object"
end
local kind = json.kind

local function key_order(a, b)
    local ta, tb = type(a), type(b)
    if ta ~= tb then
        return ta < tb
    end
    if ta == "number" or ta == "string" then
        return a < b
    end
    return tostring(a) < tostring(b)
end

--- The keys of an object in order: the known ones that still exist, then
-- those added since, sorted.
function json.keys(t)
    local mt = getmt(t)
    local known = mt and mt.kind == "object" and mt.keys or {}
    local keys, seen, n = {}, {}, 0
    for i = 1, #known do
        local k = known[i]
        if rawget(t, k) ~= nil and not seen[k] then
            n = n + 1
            keys[n] = k
            seen[k] = true
        end
    end
    local first_new = n + 1
    local extra = {}
    for k in next, t do
        if not seen[k] then
            extra[#extra + 1] = k
        end
    end
    sort(extra, key_order)
    for i = 1, #extra do
        keys[first_new] = extra[i]
        first_new = first_new + 1
    end
    return keys
end

--- The ordered keys of a canonical object, not to be changed.
function json.canonical_keys(t)
    return getmt(t).keys
end

--- A canonical deep copy of what a hook built.
function json.normalize(v, depth)
    depth = depth or 1
    local t = type(v)
    if t == "string" or t == "boolean" or t == "number" then
        return v
    elseif t == "nil" then
        return null
    elseif t ~= "table" then
        error("a " .. t .. " is no JSON value", 0)
    elseif depth > MAX_DEPTH then
        error("value nested deeper than " .. MAX_DEPTH, 0)
    end
    local k = kind(v)
    if k == "array" then
        local copy = {}
        for i = 1, #v do
            copy[i] = json.normalize(rawget(v, i), depth + 1)
        end
        return array(copy)
    elseif k == "object" then
        local copy, keys = {}, {}
        for i, key in ipairs(json.keys(v)) do
            local name = type(key) == "string" and key or tostring(key)
            keys[i] = name
            copy[name] = json.normalize(rawget(v, key), depth + 1)
        end
        return object(copy, keys)
    elseif k == "null" or k == "int" or k == "float" then
        return v
    end
    error("a " .. k .. " is no JSON value", 0)
end

-- Encoding -------------------------------------------------------------------

local ESCAPES = {
    ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r",
    ["\t"] = "\\t", ["\b"] = "\\b", ["\f"] = "\\f",
}
for i = 0, 31 do
    ESCAPES[char(i)] = ESCAPES[char(i)] or format("\\u%04x", i)
end

local function ascii_escape(s)
    local unicode = require "llm.unicode"
    return (gsub(s, "[%z\1-\31\"\\\127-\255]+", function(run)
        local parts = {}
        for _, code in ipairs(unicode.codes(run)) do
            local c = code < 128 and ESCAPES[char(code)]
            if c then
                parts[#parts + 1] = c
            elseif code < 127 then
                parts[#parts + 1] = char(code)
            elseif code < 0x10000 then
                parts[#parts + 1] = format("\\u%04x", code)
            else
                code = code - 0x10000
                parts[#parts + 1] = format("\\u%04x\\u%04x",
                    0xd800 + floor(code / 1024), 0xdc00 + code % 1024)
            end
        end
        return concat(parts)
    end))
end

local function encode_string(s, o)
    if o.ensure_ascii then
        s = ascii_escape(s)
    else
        if find(s, "[\128-\255]") then
            s = require("llm.unicode").fix(s)
        end
        if find(s, '[%z\1-\31"\\]') then
            s = gsub(s, '[%z\1-\31"\\]', ESCAPES)
        end
    end
    return '"' .. s .. '"'
end

local function encode_number(v, o)
    if v == floor(v) and v < MAX_INT64 and v > -MAX_INT64 then
        return format("%.0f", v + 0)     -- no "-0"
    elseif v ~= v or v == huge or v == -huge then
        if not o.nan then
            error("NaN and Infinity are no JSON values", 0)
        end
        return v ~= v and "NaN" or v > 0 and "Infinity" or "-Infinity"
    end
    return repr_float(v)
end

local function encode_key(k, o)
    local t = type(k)
    if t == "number" then
        k = encode_number(k, o)
    elseif t == "boolean" then
        k = k and "true" or "false"
    elseif k == null then
        k = "null"
    elseif t ~= "string" then
        error("an object key cannot be a " .. t, 0)
    end
    return encode_string(k, o)
end

local encode_value

-- Items of one container, with Python's rules for indent.
local function encode_items(open, close, items, o, depth)
    local n = #items
    if n == 0 then
        return open .. close
    elseif not o.indent then
        return open .. concat(items, o.item_sep) .. close
    end
    local pad = "\n" .. rep(o.indent, depth)
    return open .. pad .. concat(items, o.item_sep .. pad) ..
           "\n" .. rep(o.indent, depth - 1) .. close
end

local function encode_table(v, o, depth)
    local k = kind(v)
    if k == "null" then
        return "null"
    elseif k == "int" then
        return rawget(v, "s")
    elseif k == "float" then
        return repr_float(rawget(v, "v"))
    elseif depth > MAX_DEPTH then
        error("value nested deeper than " .. MAX_DEPTH, 0)
    elseif k == "array" or k == "tuple" then
        local items = {}
        for i = 1, #v do
            items[i] = encode_value(rawget(v, i), o, depth + 1)
        end
        return encode_items("[", "]", items, o, depth)
    elseif k == "object" then
        local items, keys = {}, json.keys(v)
        if o.sort_keys then
            sort(keys, key_order)
        end
        for i = 1, #keys do
            items[i] = encode_key(keys[i], o) .. o.key_sep ..
                       encode_value(rawget(v, keys[i]), o, depth + 1)
        end
        return encode_items("{", "}", items, o, depth)
    end
    if o.unknown then
        o.unknown(v)
    end
    error("a " .. k .. " is no JSON value", 0)
end

function encode_value(v, o, depth)
    local t = type(v)
    local text
    if t == "string" then
        text = encode_string(v, o)
    elseif t == "number" then
        text = encode_number(v, o)
    elseif t == "boolean" then
        text = v and "true" or "false"
    elseif t == "table" then
        text = encode_table(v, o, depth)
    elseif t == "nil" then
        text = "null"
    else
        error("a " .. t .. " is no JSON value", 0)
    end
    if o.charge then
        o.charge(#text)
    end
    return text
end

local COMPACT = { item_sep = ",", key_sep = ":" }

--- JSON text of v.  o (optional): indent (a string), item_sep, key_sep,
-- ensure_ascii, sort_keys, nan (allow NaN), unknown (called with a value of
-- another kind), charge (called with the size of each text made).
function json.encode(v, o)
    return encode_value(v, o or COMPACT, 1)
end

-- Decoding -------------------------------------------------------------------

local function fail(s, pos, what)
    local line, col = 1, pos
    for at in string.gmatch(sub(s, 1, pos - 1), "()\n") do
        line = line + 1
        col = pos - at
    end
    error(format("JSON: %s at line %d, column %d", what, line, col), 0)
end

local UNESCAPES = {
    ['"'] = '"', ["\\"] = "\\", ["/"] = "/", b = "\b", f = "\f", n = "\n",
    r = "\r", t = "\t",
}

local function utf8_char(code)
    return require("llm.unicode").char(code)
end

local function decode_unicode(s, pos)
    local hex = s:match("^%x%x%x%x", pos)
    if not hex then
        fail(s, pos, "bad \\u escape")
    end
    local code = tonumber(hex, 16)
    if code < 0xd800 or code > 0xdfff then
        return utf8_char(code), pos + 4
    end
    local low = code < 0xdc00 and s:match("^\\u(%x%x%x%x)", pos + 4)
    low = low and tonumber(low, 16)
    if low and low >= 0xdc00 and low <= 0xdfff then
        return utf8_char(0x10000 + (code - 0xd800) * 1024 + low - 0xdc00),
               pos + 10
    end
    return utf8_char(0xfffd), pos + 4
end

local function decode_string(s, pos)
    local parts, n, start = {}, 0, pos
    while true do
        local at = find(s, '[%z\1-\31"\\]', pos)
        if not at then
            fail(s, start - 1, "string without end")
        end
        n = n + 1
        parts[n] = sub(s, pos, at - 1)
        local c = sub(s, at, at)
        if c == '"' then
            return n == 1 and parts[1] or concat(parts), at + 1
        elseif c ~= "\\" then
            fail(s, at, "control character in a string")
        end
        c = sub(s, at + 1, at + 1)
        n = n + 1
        if c == "u" then
            parts[n], pos = decode_unicode(s, at + 2)
        elseif UNESCAPES[c] then
            parts[n], pos = UNESCAPES[c], at + 2
        else
            fail(s, at, "bad escape")
        end
    end
end

local function decode_number(s, pos, o)
    local text = s:match("^%-?%d+%.?%d*[eE]?[+-]?%d*", pos)
    local int, frac, exp = (text or ""):match("^%-?(%d+)(%.?%d*)([eE]?.*)$")
    if not int or (#int > 1 and byte(int) == 48) or frac == "."
        or (exp ~= "" and not find(exp, "^[eE][+-]?%d+$"))
    then
        fail(s, pos, "bad number")
    end
    local value = tonumber(text)
    local after = pos + #text
    if frac ~= "" or exp ~= "" then
        return o.floats and json.float(value) or value, after
    elseif value > MAX_INT or value < -MAX_INT then
        return json.int(text), after
    end
    return value, after
end

local function skip(s, pos)
    return find(s, "[^ \n\r\t]", pos) or #s + 1
end

local decode_value

local function decode_array(s, pos, o, depth)
    local t, n = {}, 0
    pos = skip(s, pos)
    if byte(s, pos) == 93 then
        return array(t), pos + 1
    end
    while true do
        n = n + 1
        t[n], pos = decode_value(s, pos, o, depth + 1)
        pos = skip(s, pos)
        local c = byte(s, pos)
        if c == 93 then
            return array(t), pos + 1
        elseif c ~= 44 then
            fail(s, pos, "expected ',' or ']'")
        end
        pos = skip(s, pos + 1)
    end
end

local function decode_object(s, pos, o, depth)
    local t, keys, n = {}, {}, 0
    pos = skip(s, pos)
    if byte(s, pos) == 125 then
        return object(t, keys), pos + 1
    end
    while true do
        if byte(s, pos) ~= 34 then
            fail(s, pos, "expected a key")
        end
        local key
        key, pos = decode_string(s, pos + 1)
        pos = skip(s, pos)
        if byte(s, pos) ~= 58 then
            fail(s, pos, "expected ':'")
        end
        if t[key] == nil then
            n = n + 1
            keys[n] = key
        end
        t[key], pos = decode_value(s, skip(s, pos + 1), o, depth + 1)
        pos = skip(s, pos)
        local c = byte(s, pos)
        if c == 125 then
            return object(t, keys), pos + 1
        elseif c ~= 44 then
            fail(s, pos, "expected ',' or '}'")
        end
        pos = skip(s, pos + 1)
    end
end

local WORDS = { [116] = { "true", true }, [102] = { "false", false },
                [110] = { "null", null } }

function decode_value(s, pos, o, depth)
    local c = byte(s, pos)
    if depth > MAX_DEPTH then
        fail(s, pos, "nested deeper than " .. MAX_DEPTH)
    elseif c == 34 then
        return decode_string(s, pos + 1)
    elseif c == 123 then
        return decode_object(s, pos + 1, o, depth)
    elseif c == 91 then
        return decode_array(s, pos + 1, o, depth)
    elseif c and WORDS[c] then
        local word = WORDS[c]
        if sub(s, pos, pos + #word[1] - 1) == word[1] then
            return word[2], pos + #word[1]
        end
    elseif c == 45 or (c and c >= 48 and c <= 57) then
        return decode_number(s, pos, o)
    end
    fail(s, pos, c and "expected a value" or "unexpected end")
end

--- The value of a JSON text; raises "JSON: ... at line L, column C".
-- o.floats: keep 1.0 apart from 1 (templates).
function json.decode(s, o)
    if type(s) ~= "string" then
        error("JSON: expected a string, got a " .. type(s), 0)
    end
    local value, pos = decode_value(s, skip(s, 1), o or COMPACT, 1)
    pos = skip(s, pos)
    if pos <= #s then
        fail(s, pos, "text after the value")
    end
    return value
end

return json
