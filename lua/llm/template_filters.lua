--- llm.template_filters: Jinja's filters, filter(v, args, kw) -> value.
--
-- Sorting, grouping and everything about sequences is in
-- template_sequences.lua, which adds to the same table.

local json = require "llm.json"
local limits = require "llm.template_limits"
local unicode = require "llm.unicode"
local value = require "llm.template_value"
local access = require "llm.template_access"
local methods = require "llm.template_methods"
local formatting = require "llm.template_format"

local filters = {}

local bind, str, names = value.bind, value.str, methods.names
local null = json.null
local floor = math.floor

local function fail(message)
    limits.fail("invalid operation", message)
end

-- Text -----------------------------------------------------------------------

local NONE = {}

local function string_filter(name, method)
    filters[name] = function(v, args, kw)
        bind(name, args, kw, NONE)
        return methods.string[method or name](str(v), args)
    end
end
string_filter("upper")
string_filter("lower")
string_filter("capitalize")

filters.string = function(v)
    return str(v)
end
filters.safe = filters.string

filters.trim = function(v, args, kw)
    return methods.string.strip(str(v), args, kw)
end

-- Jinja's own title: words begin after white space, '-', '(', '[', '{', '<'.
filters.title = function(v)
    local s = str(v)
    limits.bytes(#s)
    limits.charge(#s / 8)
    local out, start = {}, true
    for _, c in ipairs(unicode.chars(s)) do
        if unicode.SPACE[c] or c:find("^[-({%[<]") then
            start = true
            out[#out + 1] = c
        else
            out[#out + 1] = start and unicode.upper(c) or unicode.lower(c)
            start = false
        end
    end
    return table.concat(out)
end

filters.replace = function(v, args, kw)
    local old, new, count = bind("replace", args, kw, names "old new count",
                                 2)
    count = (count == nil or count == null) and -1 or value.need_int(count)
    return methods.replace(str(v), str(old), str(new), count)
end

filters.indent = function(v, args, kw)
    local width, first, blank = bind("indent", args, kw,
                                     names "width first blank")
    local pad = "    "
    if type(width) == "string" then
        pad = width
    elseif width ~= nil then
        pad = value.repeat_string(" ", value.need_int(width))
    end
    blank = blank ~= nil and value.truth(blank)
    local text = value.need_string(v, "indent: the value")
    local lines = methods.string.splitlines(text .. "\n", {})
    local out = { lines[1] }
    for i = 2, #lines do
        out[i] = (blank or lines[i] ~= "") and pad .. lines[i] or lines[i]
    end
    text = methods.join("\n", out)
    if first ~= nil and value.truth(first) then
        text = pad .. text
    end
    return text
end

filters.truncate = function(v, args, kw)
    local length, kill, tail, leeway = bind("truncate", args, kw,
        names "length killwords end leeway")
    length = length == nil and 255 or value.need_int(length)
    tail = tail == nil and "..." or value.need_string(tail)
    leeway = (leeway == nil or leeway == null) and 5
        or value.need_int(leeway)
    if value.len(v) <= length + leeway then
        return v
    end
    local cut = value.slice(value.need_string(v), 0, length - value.len(tail))
    if not (kill ~= nil and value.truth(kill)) then
        local last = cut:match("^.*() ")
        cut = last and cut:sub(1, last - 1) or cut
    end
    return cut .. tail
end

filters.center = function(v, args, kw)
    local width = bind("center", args, kw, names "width")
    return methods.string.center(str(v), { width or 80 })
end

filters.format = function(v, args, kw)
    if kw and #args > 0 then
        value.type_error("can't handle positional and keyword arguments at "
                         .. "the same time")
    end
    if kw then
        return formatting.percent(str(v), json.object(kw.map, kw.names))
    end
    return formatting.percent(str(v), value.tuple(args))
end

filters.wordcount = function(v)
    local s = str(v)
    if not unicode.is_ascii(s) then
        fail("wordcount of non-ASCII text is not supported")
    end
    limits.charge(#s / 64)
    local _, n = s:gsub("[%w_]+", "")
    return n
end

local HTML = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;",
               ["'"] = "&#39;", ['"'] = "&#34;" }

filters.escape = function(v)
    local s = str(v)
    limits.bytes(5 * #s)
    return (s:gsub("[&<>'\"]", HTML))
end
filters.e, filters.forceescape = filters.escape, filters.escape

local function quote(s, pattern)
    limits.bytes(3 * #s)
    return (s:gsub(pattern, function(c)
        return string.format("%%%02X", c:byte())
    end))
end

filters.urlencode = function(v)
    local k = value.kind(v)
    if k ~= "object" and not value.SEQUENCE[k] then
        return quote(str(v), "[^%w_.~/-]")
    end
    local out = {}
    for _, pair in ipairs(k == "object" and methods.pairs(v) or v) do
        local one = value.items(pair)
        for i = 1, 2 do
            local text = quote(str(one[i] or ""), "[^%w_.~ -]")
            out[#out + 1] = text:gsub(" ", "+")
            out[#out + 1] = i == 1 and "=" or "&"
        end
    end
    out[#out] = nil
    return table.concat(out)
end

-- Numbers --------------------------------------------------------------------

-- Python's int(text, base) of stripped text, or nil.
local function parse_int(text, base)
    text = unicode.strip(text, true, true):gsub("(%w)_(%w)", "%1%2")
    local sign, digits = text:match("^([-+]?)(%w+)$")
    if not digits then
        return nil
    end
    if base == 16 then
        digits = digits:gsub("^0[xX]", "")
    elseif base == 8 then
        digits = digits:gsub("^0[oO]", "")
    elseif base == 2 then
        digits = digits:gsub("^0[bB]", "")
    end
    if base == 10 and digits:find("%D") or digits == "" then
        return nil
    end
    local n = tonumber(digits, base)
    if n and n > json.MAX_INT and base == 10 then
        return json.int((sign == "-" and "-" or "")
                        .. digits:gsub("^0+", ""))
    end
    return n and value.int(sign == "-" and -n or n)
end

local function parse_float(text)
    text = unicode.strip(text, true, true):lower()
    local sign, word = text:match("^([-+]?)(%a+)$")
    local n
    if word == "inf" or word == "infinity" then
        n = math.huge
    elseif word == "nan" then
        n = 0 / 0
    elseif text:find("^[-+]?[%d_]*%.?[%d_]*e?[-+]?%d*$") then
        n = tonumber((text:gsub("(%d)_(%d)", "%1%2")))
        return n
    end
    return n and (sign == "-" and -n or n)
end

local function truncated(n)
    if n - n ~= 0 then
        return nil
    end
    return value.int(n < 0 and math.ceil(n) or floor(n))
end

filters.int = function(v, args, kw)
    local default, base = bind("int", args, kw, names "default base")
    default = default == nil and 0 or default
    local n, is_float = value.number(v)
    local result
    if n then
        if value.kind(v) == "int" then
            return v
        end
        result = is_float and truncated(n) or n
    elseif type(v) == "string" then
        result = parse_int(v, base == nil and 10 or value.need_int(base))
        if result == nil then
            n = parse_float(v)
            result = n and truncated(n)
        end
    elseif value.is_undefined(v) then
        value.undefined_error(v)
    end
    return result == nil and default or result
end

filters.float = function(v, args, kw)
    local default = bind("float", args, kw, names "default")
    local n = value.number(v)
    if type(v) == "string" then
        n = parse_float(v)
    elseif value.is_undefined(v) then
        value.undefined_error(v)
    end
    if n == nil then
        return default == nil and value.float(0) or default
    end
    return value.float(n)
end

filters.abs = function(v)
    local n = value.number(v)
    if not n then
        value.sign("-", v)
    end
    return n < 0 and value.sign("-", v) or value.sign("+", v)
end

local function round_half_even(n, precision)
    local text = formatting.half_even(math.abs(n), "f", precision)
    return n < 0 and -tonumber(text) or tonumber(text)
end

filters.round = function(v, args, kw)
    local precision, method = bind("round", args, kw,
                                   names "precision method")
    precision = precision == nil and 0 or value.need_int(precision)
    method = method == nil and "common" or method
    local n, is_float = value.number(v)
    if not n then
        value.sign("+", v)
    elseif precision < 0 or precision > 60 then
        fail("round: precision outside 0..60 is not supported")
    end
    if method == "common" then
        if n - n ~= 0 then
            return v
        end
        return is_float and value.float(round_half_even(n, precision)) or n
    elseif method ~= "ceil" and method ~= "floor" then
        fail("method must be common, ceil or floor")
    end
    local scale = 10 ^ precision
    return value.float(math[method](n * scale) / scale)
end

-- Any value ------------------------------------------------------------------

filters.default = function(v, args, kw)
    local default, boolean = bind("default", args, kw,
                                  names "default_value boolean")
    if value.is_undefined(v)
        or (boolean ~= nil and value.truth(boolean) and not value.truth(v))
    then
        return default == nil and "" or default
    end
    return v
end
filters.d = filters.default

filters.length = function(v)
    return value.len(v)
end
filters.count = filters.length

filters.attr = function(v, args, kw)
    local name = value.need_string(bind("attr", args, kw, names "name", 1))
    if value.kind(v) == "object" then
        local found = access.attr(json.object(), name)
        return value.is_undefined(found) and found or access.attr(v, name)
    end
    return access.attr(v, name)
end

local function not_serializable(v)
    value.type_error("Object of type " .. value.type_name(v)
                     .. " is not JSON serializable")
end

local function separators(v)
    local list = value.items(v)
    if #list ~= 2 then
        fail("separators must be a pair")
    end
    return value.need_string(list[1]), value.need_string(list[2])
end

-- json.dumps as transformers calls it
filters.tojson = function(v, args, kw)
    local ensure_ascii, indent, seps, sort_keys = bind("tojson", args, kw,
        names "ensure_ascii indent separators sort_keys")
    local o = { item_sep = ", ", key_sep = ": ", nan = true,
                unknown = not_serializable, charge = limits.bytes }
    if ensure_ascii ~= nil then
        o.ensure_ascii = value.truth(ensure_ascii)
    end
    if indent ~= nil and indent ~= null then
        if type(indent) == "string" then
            o.indent = indent
        else
            o.indent = value.repeat_string(" ", value.need_int(indent))
        end
        o.item_sep = ","
    end
    if seps ~= nil and seps ~= null then
        o.item_sep, o.key_sep = separators(seps)
    end
    o.sort_keys = sort_keys ~= nil and value.truth(sort_keys)
    return json.encode(v, o)
end

return filters
