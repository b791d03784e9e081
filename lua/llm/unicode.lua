--- llm.unicode: UTF-8 strings as Python sees them: sequences of code points.
--
-- Strings are taken to be valid UTF-8 (JSON and files guarantee it; fix()
-- makes it so); an invalid one gives wrong counts, never an error.
-- ASCII strings take the short way everywhere.

local unicode = {}

local byte, char, find, gmatch, gsub, lower, sub, upper =
    string.byte, string.char, string.find, string.gmatch, string.gsub,
    string.lower, string.sub, string.upper
local concat = table.concat
local floor = math.floor

local CHAR = "[%z\1-\127\192-\255][\128-\191]*"

local function is_ascii(s)
    return not find(s, "[\128-\255]")
end
unicode.is_ascii = is_ascii

--- The UTF-8 text of a code point.
function unicode.char(code)
    if code < 0x80 then
        return char(code)
    elseif code < 0x800 then
        return char(0xc0 + floor(code / 64), 0x80 + code % 64)
    elseif code < 0x10000 then
        return char(0xe0 + floor(code / 4096), 0x80 + floor(code / 64) % 64,
                    0x80 + code % 64)
    end
    return char(0xf0 + floor(code / 262144), 0x80 + floor(code / 4096) % 64,
                0x80 + floor(code / 64) % 64, 0x80 + code % 64)
end

--- The code point of the sequence at byte pos and its length in bytes;
-- nil if it is not valid.
function unicode.decode(s, pos)
    local a, b, c, d = byte(s, pos, pos + 3)
    local function tail(x)
        return x and x >= 0x80 and x <= 0xbf
    end
    if a < 0x80 then
        return a, 1
    elseif a < 0xc2 or a > 0xf4 or not tail(b) then
        return nil
    elseif a < 0xe0 then
        return (a - 0xc0) * 64 + b - 0x80, 2
    elseif not tail(c) then
        return nil
    elseif a < 0xf0 then
        local code = (a - 0xe0) * 4096 + (b - 0x80) * 64 + c - 0x80
        if code < 0x800 or (code >= 0xd800 and code <= 0xdfff) then
            return nil
        end
        return code, 3
    elseif not tail(d) then
        return nil
    end
    local code = (a - 0xf0) * 262144 + (b - 0x80) * 4096
                 + (c - 0x80) * 64 + d - 0x80
    if code < 0x10000 or code > 0x10ffff then
        return nil
    end
    return code, 4
end
local decode = unicode.decode

--- The code points of s; an invalid byte counts as U+FFFD.
function unicode.codes(s)
    local codes, n, pos = {}, 0, 1
    while pos <= #s do
        local code, size = decode(s, pos)
        n = n + 1
        codes[n] = code or 0xfffd
        pos = pos + (size or 1)
    end
    return codes
end

--- s with every invalid byte replaced by U+FFFD.
function unicode.fix(s)
    if is_ascii(s) then
        return s
    end
    local parts, n, start, pos = {}, 0, 1, 1
    while true do
        pos = find(s, "[\128-\255]", pos)
        if not pos then
            break
        end
        local code, size = decode(s, pos)
        if code then
            pos = pos + size
        else
            parts[n + 1] = sub(s, start, pos - 1)
            parts[n + 2] = "\239\191\189"
            n = n + 2
            pos = pos + 1
            start = pos
        end
    end
    if n == 0 then
        return s
    end
    parts[n + 1] = sub(s, start)
    return concat(parts)
end

--- Number of code points.
function unicode.len(s)
    if is_ascii(s) then
        return #s
    end
    local _, n = gsub(s, "[^\128-\191]", "")
    return n
end

--- The characters of s, each a string.
function unicode.chars(s)
    local list, n = {}, 0
    for c in gmatch(s, CHAR) do
        n = n + 1
        list[n] = c
    end
    return list
end

--- Characters first..last of s, counted from 1, both within 1..len.
function unicode.sub(s, first, last)
    if is_ascii(s) then
        return sub(s, first, last)
    end
    local from, to, n = #s + 1, #s, 0
    for at in gmatch(s, "()[^\128-\191]") do
        n = n + 1
        if n == first then
            from = at
        elseif n == last + 1 then
            to = at - 1
            break
        end
    end
    return sub(s, from, to)
end

--- Number of characters in the first n_bytes bytes of s.
function unicode.index(s, n_bytes)
    return unicode.len(sub(s, 1, n_bytes))
end

-- White space ----------------------------------------------------------------

local SPACE = {}
for _, code in ipairs { 9, 10, 11, 12, 13, 28, 29, 30, 31, 32, 0x85, 0xa0,
    0x1680, 0x2000, 0x2001, 0x2002, 0x2003, 0x2004, 0x2005, 0x2006, 0x2007,
    0x2008, 0x2009, 0x200a, 0x2028, 0x2029, 0x202f, 0x205f, 0x3000 }
do
    SPACE[unicode.char(code)] = true
end
unicode.SPACE = SPACE

--- The set of the characters of s, for strip().
function unicode.set(s)
    local set = {}
    for c in gmatch(s, CHAR) do
        set[c] = true
    end
    return set
end

--- s without leading (left) and trailing (right) characters of set.
function unicode.strip(s, left, right, set)
    set = set or SPACE
    local from, to = 1, #s
    while left and from <= to do
        local c = s:match("^" .. CHAR, from)
        if not c or not set[c] then
            break
        end
        from = from + #c
    end
    while right and to >= from do
        local start = to
        while start > from and byte(s, start) >= 128
            and byte(s, start) < 192
        do
            start = start - 1
        end
        if not set[sub(s, start, to)] then
            break
        end
        to = start - 1
    end
    return sub(s, from, to)
end

--- Is every character of s white space?
function unicode.is_space(s)
    return unicode.strip(s, true) == ""
end

-- Case -----------------------------------------------------------------------

local tables

local function load_tables()
    local data = require "llm.unicode_data"
    tables = { lower = {}, upper = {}, title = {} }
    for _, name in ipairs { "lower", "upper", "title" } do
        local map = tables[name]
        if name == "title" then
            for c, other in pairs(tables.upper) do
                map[c] = other
            end
        end
        for a, b, step, delta in
            gmatch(data[name], "(%x+),(%x+),(%d),(%-?%d+)")
        do
            for code = tonumber(a, 16), tonumber(b, 16), tonumber(step) do
                map[unicode.char(code)] = unicode.char(code + delta)
            end
        end
    end
    for _, name in ipairs { "lower", "upper", "title" } do
        for c, text in pairs(data[name .. "_special"]) do
            tables[name][c] = text
        end
    end
end

local function map_case(s, name)
    if not tables then
        load_tables()
    end
    return (gsub(s, "[\192-\255][\128-\191]*", tables[name]))
end

local SIGMA, FINAL_SIGMA, SMALL_SIGMA = "\206\163", "\207\130", "\207\131"

local function is_cased(c)
    if not c then
        return false
    elseif #c == 1 then
        return find(c, "^%a$") ~= nil
    end
    if not tables then
        load_tables()
    end
    return (tables.lower[c] or tables.upper[c]) ~= nil
end
unicode.is_cased = is_cased

-- Greek capital sigma is written differently at the end of a word.
local function lower_sigma(s)
    local list = unicode.chars(s)
    for i = 1, #list do
        if list[i] == SIGMA then
            local final = is_cased(list[i - 1]) and not is_cased(list[i + 1])
            list[i] = final and FINAL_SIGMA or SMALL_SIGMA
        end
    end
    return concat(list)
end

function unicode.lower(s)
    if is_ascii(s) then
        return lower(s)
    end
    if find(s, SIGMA, 1, true) then
        s = lower_sigma(s)
    end
    return map_case(gsub(s, "%u+", lower), "lower")
end

function unicode.upper(s)
    if is_ascii(s) then
        return upper(s)
    end
    return map_case(gsub(s, "%l+", upper), "upper")
end

local function title_char(c)
    return #c == 1 and upper(c) or map_case(c, "title")
end

--- First character in title case, the rest lower.
function unicode.capitalize(s)
    local first = s:match("^" .. CHAR) or ""
    return title_char(first) .. unicode.lower(sub(s, #first + 1))
end

--- Python's str.title: a capital after every character without case.
function unicode.title(s)
    local list, in_word = unicode.chars(s), false
    for i = 1, #list do
        local c = list[i]
        local cased = is_cased(c)
        if cased then
            list[i] = in_word and unicode.lower(c) or title_char(c)
        end
        in_word = cased
    end
    return concat(list)
end

function unicode.swapcase(s)
    local list = unicode.chars(s)
    for i = 1, #list do
        local low = unicode.lower(list[i])
        list[i] = low ~= list[i] and low or unicode.upper(list[i])
    end
    return concat(list)
end

return unicode
