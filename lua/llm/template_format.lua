--- llm.template_format: Python's "%" and str.format on strings.
--
-- Widths and precisions come from templates: they are bounded, and padding
-- is done here, so that string.format only ever sees formats made here.

local json = require "llm.json"
local limits = require "llm.template_limits"
local unicode = require "llm.unicode"
local value = require "llm.template_value"

local formatting = {}

local find, format, match, rep, sub =
    string.find, string.format, string.match, string.rep, string.sub
local type_error = value.type_error

local MAX_WIDTH = 100000
local MAX_PRECISION = 60

local function fail(message)
    limits.fail("invalid operation", message)
end

local function bounded(text, max, what)
    local n = tonumber(text)
    if n and n > max then
        fail(what .. " larger than " .. max)
    end
    return n
end

--- text padded to width characters; align is <, > or ^.
function formatting.pad(text, width, align, fill)
    local missing = width - unicode.len(text)
    if missing <= 0 then
        return text
    end
    fill = fill or " "
    limits.bytes(missing * #fill + #text)
    if align == "<" then
        return text .. rep(fill, missing)
    elseif align == ">" then
        return rep(fill, missing) .. text
    end
    local left = math.floor(missing / 2)
    return rep(fill, left) .. text .. rep(fill, missing - left)
end
local pad = formatting.pad

local function group(digits, comma)
    local head, tail = match(digits, "^(%d+)(.*)$")
    local first = #head % 3
    local parts = {}
    if first > 0 then
        parts[1] = sub(head, 1, first)
    end
    for at = first + 1, #head, 3 do
        parts[#parts + 1] = sub(head, at, at + 2)
    end
    return table.concat(parts, comma) .. tail
end

-- Digits of |n| in a base 2, 8 or 16.
local function in_base(n, base)
    local digits = {}
    repeat
        local d = n % base
        table.insert(digits, 1, sub("0123456789abcdef", d + 1, d + 1))
        n = (n - d) / base
    until n == 0
    return table.concat(digits)
end

local BASES = { x = 16, X = 16, o = 8, b = 2 }
local BASE_PREFIX = { x = "0x", X = "0X", o = "0o", b = "0b" }

-- n >= 0 with precision digits, halves to even as in C: LuaJIT's own format
-- rounds exact halves up.  conv is f or e.
local function half_even(n, conv, precision)
    local text = format("%." .. precision .. conv, n)
    local exact = format("%." .. precision + 25 .. conv, n)
    local digits, rest, exp = match(exact, "^([%d.]-)(50*)(e?[-+]?%d*)$")
    if not digits or #rest ~= 25 then
        return text
    end
    if precision == 0 then
        digits = sub(digits, 1, -2)                 -- the point
    end
    local last = tonumber(sub(digits, -1))
    return last and last % 2 == 0 and digits .. exp or text
end
formatting.half_even = half_even

-- Text of |n| for a float conversion e, f, g (or upper case).
local function float_text(n, conv, precision, alternate)
    if n ~= n or n == math.huge then
        local text = n ~= n and "nan" or "inf"
        return conv:upper() == conv and text:upper() or text
    end
    if (conv == "f" or conv == "e") and not alternate then
        return half_even(n, conv, precision or 6)
    end
    return format("%" .. (alternate and "#" or "") .. "."
                  .. (precision or 6) .. conv, n)
end

-- sign and digits of number v for conversion conv
local function number_text(v, conv, precision, alternate)
    local n, is_float = value.number(v)
    if not n then
        return nil
    end
    if value.kind(v) == "int" then
        if BASES[conv] then
            fail("integer beyond 2**53")
        end
        local sign, digits = match(value.str(v), "^(%-?)(%d+)$")
        if find(conv, "[diu]") then
            return sign, digits
        end
    end
    local negative = n < 0 or (n == 0 and is_float and 1 / n < 0)
    local size = negative and -n or n
    local text
    if BASES[conv] then
        text = in_base(size, BASES[conv])
        if conv == "X" then
            text = text:upper()
        end
        if alternate then
            text = BASE_PREFIX[conv] .. text
        end
    elseif find(conv, "[diu]") then
        text = format("%.0f", math.floor(size))
    else
        text = float_text(size, conv, precision, alternate)
    end
    return negative and "-" or "", text
end

-- Percent --------------------------------------------------------------------

local FLOATS = "[eEfFgG]"

local function percent_value(spec, v)
    local conv = spec.conv
    if conv == "s" or conv == "r" or conv == "a" then
        local text = conv == "s" and value.str(v) or value.repr(v)
        if spec.precision then
            text = value.substring(text, 1, spec.precision)
        end
        return "", text
    elseif conv == "c" then
        if type(v) == "string" and unicode.len(v) == 1 then
            return "", v
        end
        local code = value.need_int(v)
        if code < 0 or code > 0x10ffff then
            fail("%c arg not in range(0x110000)")
        end
        return "", unicode.char(code)
    end
    local n, is_float = value.number(v)
    if not n or (is_float and BASES[conv]) then
        if value.is_undefined(v) then
            value.undefined_error(v)
        end
        type_error(format("%%%s format: a %s is required, not %s", conv,
            BASES[conv] and "n integer" or "real number",
            value.type_name(v)))
    end
    if conv == "F" then
        conv = "f"
    end
    local sign, text = number_text(v, conv, spec.precision, spec.alternate)
    if not find(conv, FLOATS) and spec.precision then
        text = rep("0", spec.precision - #text) .. text
    end
    if sign == "" then
        sign = spec.plus and "+" or spec.space and " " or ""
    end
    return sign, text
end

-- One %-conversion at pos (after the '%'): its spec and where it ends.
local function percent_spec(s, pos)
    local spec = {}
    local name_end
    if sub(s, pos, pos) == "(" then
        name_end = find(s, ")", pos, true)
        if not name_end then
            fail("incomplete format key")
        end
        spec.name = sub(s, pos + 1, name_end - 1)
        pos = name_end + 1
    end
    local flags, width, dot, precision, conv, stop = match(s,
        "^([-+ #0]*)(%*?%d*)(%.?)(%*?%d*)[hlL]*(.?)()", pos)
    if conv == "" then
        fail("incomplete format")
    elseif not find(conv, "[sradiuxXoeEfFgGc%%]") then
        fail("unsupported format character '" .. conv .. "'")
    end
    if width == "*" or precision == "*" then
        fail("'*' in a format is not supported")
    end
    spec.left = find(flags, "-", 1, true)
    spec.plus = find(flags, "+", 1, true)
    spec.space = find(flags, " ", 1, true)
    spec.zero = find(flags, "0", 1, true)
    spec.alternate = find(flags, "#", 1, true)
    spec.width = bounded(width, MAX_WIDTH, "width")
    spec.conv = conv
    if dot ~= "" then
        spec.precision = bounded(precision, conv == "s" and MAX_WIDTH
            or MAX_PRECISION, "precision") or 0
    end
    return spec, stop
end

local function percent_one(spec, v)
    local sign, text = percent_value(spec, v)
    local width = spec.width
    if not width then
        return sign .. text
    elseif spec.left then
        return pad(sign .. text, width, "<")
    elseif spec.zero and not find(spec.conv, "[srac]") then
        return sign .. pad(text, width - #sign, ">", "0")
    end
    return pad(sign .. text, width, ">")
end

--- s % v
function formatting.percent(s, v)
    local k = value.kind(v)
    local args = k == "tuple" and v or { v }
    local parts, used, pos = {}, 0, 1
    while true do
        local at = find(s, "%", pos, true)
        parts[#parts + 1] = sub(s, pos, (at or #s + 1) - 1)
        if not at then
            break
        end
        local spec, stop = percent_spec(s, at + 1)
        local arg
        if spec.conv == "%" then
            parts[#parts + 1] = "%"
        elseif spec.name then
            if k ~= "object" then
                type_error("format requires a mapping")
            end
            arg = rawget(v, spec.name)
            if arg == nil then
                fail("KeyError: '" .. spec.name .. "'")
            end
            used = #args
        else
            used = used + 1
            arg = args[used]
            if arg == nil then
                type_error("not enough arguments for format string")
            end
        end
        if arg ~= nil then
            parts[#parts + 1] = percent_one(spec, arg)
            limits.bytes(#parts[#parts])
        end
        pos = stop
    end
    -- Python takes whatever can be subscripted for a mapping
    if used < #args and k ~= "object" and k ~= "array" and k ~= "undefined"
    then
        type_error("not all arguments converted during string formatting")
    end
    return table.concat(parts)
end

-- str.format -------------------------------------------------------------------

-- [[fill]align][sign][#][0][width][,_][.precision][type]
local function format_spec(text)
    local spec = {}
    local pos
    local fill, align = match(text, "^([%z\1-\127\192-\255][\128-\191]*)([<>=^])")
    if fill then
        pos = #fill + 2
    else
        align = match(text, "^[<>=^]")
        pos = align and 2 or 1
    end
    local sign, alternate, zero, width, comma, dot, precision, conv = match(
        text, "^([-+ ]?)(#?)(0?)(%d*)([,_]?)(%.?)(%d*)([bcdeEfFgGnosxX%%]?)$",
        pos)
    if not sign or (dot ~= "" and precision == "") then
        fail("Invalid format specifier '" .. text .. "'")
    end
    spec.fill, spec.align, spec.sign = fill, align, sign
    if zero ~= "" and not align then
        spec.fill, spec.align = "0", "="
    end
    spec.alternate = alternate ~= ""
    spec.width = bounded(width, MAX_WIDTH, "width") or 0
    spec.comma = comma ~= "" and comma or nil
    spec.conv = conv
    spec.precision = precision ~= "" and bounded(precision,
        (conv == "" or conv == "s") and MAX_WIDTH or MAX_PRECISION,
        "precision") or nil
    return spec
end

local function format_string(spec, text)
    if spec.sign ~= "" or spec.comma or spec.align == "="
        or (spec.conv ~= "" and spec.conv ~= "s")
    then
        fail("Invalid format specifier for object of type 'str'")
    end
    if spec.precision then
        text = value.substring(text, 1, spec.precision)
    end
    return pad(text, spec.width, spec.align or "<", spec.fill)
end

local function format_number(spec, v)
    local n, is_float = value.number(v)
    local conv = spec.conv
    local sign, text
    if conv == "" and not (is_float and spec.precision) then
        sign, text = match(value.str(v), "^(%-?)(.*)$")
    elseif conv == "%" then
        sign, text = number_text(json.float(n * 100), "f", spec.precision)
        text = text .. "%"
    elseif conv == "c" then
        sign, text = "", unicode.char(value.need_int(v))
    else
        if conv == "" or conv == "n" then
            conv = is_float and "g" or "d"
        elseif conv == "F" then
            conv = "f"
        end
        if is_float and not find(conv, FLOATS) then
            fail("Unknown format code '" .. conv
                 .. "' for object of type 'float'")
        end
        sign, text = number_text(v, conv, spec.precision, spec.alternate)
    end
    if spec.comma and find(text, "^%d") then
        text = group(text, spec.comma)
    end
    if sign == "" and spec.sign ~= "-" then
        sign = spec.sign
    end
    if spec.align == "=" then
        return sign .. pad(text, spec.width - #sign, ">", spec.fill)
    end
    return pad(sign .. text, spec.width, spec.align or ">", spec.fill)
end

--- format(v, spec) of Python
function formatting.format(v, text)
    if text == "" then
        return value.str(v)
    end
    local spec = format_spec(text)
    local k = value.kind(v)
    if k == "string" then
        return format_string(spec, v)
    elseif value.number(v) and k ~= "boolean" then
        return format_number(spec, v)
    end
    type_error("unsupported format string passed to "
               .. value.type_name(v) .. ".__format__")
end

local function field_value(name, args, kw, auto)
    local base, rest = match(name, "^([^.%[]*)(.*)$")
    if rest ~= "" then
        fail("attributes and items in str.format fields are not supported")
    end
    local v
    if base == "" then
        auto.n = auto.n + 1
        v = args[auto.n]
    elseif find(base, "^%d+$") then
        v = args[tonumber(base) + 1]
    else
        v = kw and kw.map[base]
        if v == nil then
            fail("KeyError: '" .. base .. "'")
        end
    end
    if v == nil then
        fail("Replacement index out of range for positional args tuple")
    end
    return v
end

--- s.format(*args, **kw)
function formatting.str_format(s, args, kw)
    local parts, pos, auto = {}, 1, { n = 0 }
    while true do
        local at = find(s, "[{}]", pos)
        parts[#parts + 1] = sub(s, pos, (at or #s + 1) - 1)
        if not at then
            break
        end
        local c = sub(s, at, at)
        if sub(s, at + 1, at + 1) == c then
            parts[#parts + 1] = c
            pos = at + 2
        elseif c == "}" then
            fail("Single '}' encountered in format string")
        else
            local name, conv, spec, stop = match(s,
                "^([^{}!:]*)!?([rsa]?):?([^{}]*)}()", at + 1)
            if not name then
                fail("expected '}' before end of string")
            end
            local v = field_value(name, args, kw, auto)
            if conv == "r" or conv == "a" then
                v = value.repr(v)
            elseif conv == "s" then
                v = value.str(v)
            end
            parts[#parts + 1] = formatting.format(v, spec)
            limits.bytes(#parts[#parts])
            pos = stop
        end
    end
    return table.concat(parts)
end

return formatting
