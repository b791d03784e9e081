--- llm.template_methods: the methods of strings, lists and dicts.
--
-- methods[kind][name](self, args, kw).  Names that would change a value are
-- in methods.unsafe: the sandbox refuses them when they are called.

local json = require "llm.json"
local limits = require "llm.template_limits"
local unicode = require "llm.unicode"
local value = require "llm.template_value"
local formatting = require "llm.template_format"

local methods = { string = {}, array = {}, tuple = {}, object = {} }
local S, A, T, D = methods.string, methods.array, methods.tuple,
    methods.object

local find, match, rep, sub = string.find, string.match, string.rep,
    string.sub
local bind, bytes, charge = value.bind, limits.bytes, limits.charge
local need_string, need_int, null = value.need_string, value.need_int,
    json.null

local function names(text)
    local list = {}
    for name in text:gmatch("%S+") do
        list[#list + 1] = name
    end
    return list
end
methods.names = names

local function fail(message)
    limits.fail("invalid operation", message)
end

-- Strings: trimming and case -------------------------------------------------

local CHARS = names "chars"

local function strip_method(name, left, right)
    S[name] = function(s, args, kw)
        local chars = bind(name, args, kw, CHARS)
        bytes(#s)
        local set
        if chars ~= nil and chars ~= null then
            set = unicode.set(need_string(chars, name .. " arg"))
        end
        return unicode.strip(s, left, right, set)
    end
end
strip_method("strip", true, true)
strip_method("lstrip", true, false)
strip_method("rstrip", false, true)

local NONE = {}

local function plain_method(name, f)
    S[name] = function(s, args, kw)
        bind(name, args, kw, NONE)
        bytes(#s)
        charge(#s / 16)
        return f(s)
    end
end
for _, name in ipairs { "lower", "upper", "title", "capitalize",
                        "swapcase" }
do
    plain_method(name, unicode[name])
end
plain_method("casefold", function(s)
    if not unicode.is_ascii(s) then
        fail("casefold of non-ASCII text is not supported")
    end
    return unicode.lower(s)
end)

S.removeprefix = function(s, args, kw)
    local prefix = need_string(bind("removeprefix", args, kw,
                                    names "prefix", 1))
    return sub(s, 1, #prefix) == prefix and sub(s, #prefix + 1) or s
end

S.removesuffix = function(s, args, kw)
    local suffix = need_string(bind("removesuffix", args, kw,
                                    names "suffix", 1))
    if suffix ~= "" and sub(s, -#suffix) == suffix then
        return sub(s, 1, #s - #suffix)
    end
    return s
end

-- Strings: searching ---------------------------------------------------------

-- The part of s that start and stop select, and how many characters precede.
local function window(s, start, stop)
    if (start == nil or start == null) and (stop == nil or stop == null) then
        return s, 0
    end
    local len = value.len(s)
    local first = start ~= nil and start ~= null and need_int(start) or 0
    if first < 0 then
        first = math.max(0, first + len)
    end
    if first > len then
        return nil, first
    end
    return value.slice(s, first, stop), first
end

local function affix_method(name, matches)
    S[name] = function(s, args, kw)
        local affix, start, stop = bind(name, args, kw,
                                        names "prefix start end", 1)
        local part = window(s, start, stop)
        local list = value.kind(affix) == "tuple" and affix or { affix }
        for i = 1, #list do
            local text = list[i]
            if type(text) ~= "string" then
                if value.is_undefined(text) then
                    value.undefined_error(text)
                end
                value.type_error(name .. " first arg must be str or a tuple "
                    .. "of str, not " .. value.type_name(text))
            end
            if part and matches(part, text) then
                return true
            end
        end
        return false
    end
end
affix_method("startswith", function(s, text)
    return sub(s, 1, #text) == text
end)
affix_method("endswith", function(s, text)
    return text == "" or sub(s, -#text) == text
end)

-- Byte position of the last occurrence of what.
local function find_last(s, what)
    if what == "" then
        return #s + 1
    end
    local last, at = nil, value.find(s, what, 1)
    while at do
        last = at
        at = value.find(s, what, at + 1)
    end
    return last
end

local function find_method(name, last, strict)
    S[name] = function(s, args, kw)
        local what, start, stop = bind(name, args, kw,
                                       names "sub start end", 1)
        need_string(what)
        local part, before = window(s, start, stop)
        local at
        if part and last then
            at = find_last(part, what)
        elseif part then
            at = what == "" and 1 or value.find(part, what)
        end
        if at then
            return before + unicode.index(part, at - 1)
        elseif strict then
            fail("substring not found")
        end
        return -1
    end
end
find_method("find", false, false)
find_method("rfind", true, false)
find_method("index", false, true)
find_method("rindex", true, true)

S.count = function(s, args, kw)
    local what, start, stop = bind("count", args, kw,
                                   names "sub start end", 1)
    need_string(what)
    local part = window(s, start, stop)
    if not part then
        return 0
    elseif what == "" then
        return value.len(part) + 1
    end
    local n, _, at = 0, value.find(part, what)
    while at do
        n = n + 1
        _, at = value.find(part, what, at + 1)
    end
    return n
end

-- Strings: taking apart and putting together ---------------------------------

local function pieces_of(s, sep, max)
    local list, n, pos = {}, 0, 1
    while max < 0 or n < max do
        local at, stop = value.find(s, sep, pos)
        if not at then
            break
        end
        n = n + 1
        list[n] = sub(s, pos, at - 1)
        pos = stop + 1
    end
    list[n + 1] = sub(s, pos)
    return list
end

-- Positions of words between white space: {first, last, first, last ...}
local function words_of(s)
    local spans, pos, start = {}, 1, nil
    bytes(#s)
    charge(#s / 8)
    while pos <= #s do
        local c = match(s, "^[%z\1-\255][\128-\191]*", pos)
        if unicode.SPACE[c] then
            if start then
                spans[#spans + 1] = start
                spans[#spans + 1] = pos - 1
                start = nil
            end
            pos = pos + #c
        else
            start = start or pos
            -- ASCII without white space goes in one step
            local _, stop = find(s, "^[!-~]+", pos)
            pos = (stop or pos + #c - 1) + 1
        end
    end
    if start then
        spans[#spans + 1] = start
        spans[#spans + 1] = #s
    end
    return spans
end

local function split_words(s, max)
    local spans, list = words_of(s), {}
    for i = 1, #spans, 2 do
        if max >= 0 and #list == max then
            list[#list + 1] = unicode.strip(sub(s, spans[i]), true)
            break
        end
        list[#list + 1] = sub(s, spans[i], spans[i + 1])
    end
    return list
end

local function rsplit_words(s, max)
    local spans, list = words_of(s), {}
    for i = #spans - 1, 1, -2 do
        if max >= 0 and #list == max then
            table.insert(list, 1,
                         unicode.strip(sub(s, 1, spans[i + 1]), false, true))
            break
        end
        table.insert(list, 1, sub(s, spans[i], spans[i + 1]))
        charge(#list / 16)
    end
    return list
end

-- The last max pieces apart, the rest in one.
local function rsplit_pieces(s, sep, max)
    local list = pieces_of(s, sep, -1)
    if max < 0 or #list <= max + 1 then
        return list
    end
    local n = #list - max
    local out = { table.concat(list, sep, 1, n) }
    for i = n + 1, #list do
        out[#out + 1] = list[i]
    end
    return out
end

local function split_method(name, by_words, by_sep)
    S[name] = function(s, args, kw)
        local sep, max = bind(name, args, kw, names "sep maxsplit")
        max = max == nil and -1 or need_int(max)
        local list
        if sep == nil or sep == null then
            list = by_words(s, max)
        elseif need_string(sep) == "" then
            fail("empty separator")
        else
            list = by_sep(s, sep, max)
        end
        charge(#list)
        bytes(#s)
        return value.list(list)
    end
end
split_method("split", split_words, pieces_of)
split_method("rsplit", rsplit_words, rsplit_pieces)

local BREAKS = {}
for _, code in ipairs { 10, 11, 12, 13, 28, 29, 30, 0x85, 0x2028, 0x2029 } do
    BREAKS[unicode.char(code)] = true
end

S.splitlines = function(s, args, kw)
    local keep = bind("splitlines", args, kw, names "keepends")
    keep = keep ~= nil and value.truth(keep)
    local list, start, pos = {}, 1, 1
    charge(#s / 8)
    while pos <= #s do
        local c = match(s, "^[%z\1-\255][\128-\191]*", pos)
        if BREAKS[c] then
            local stop = pos + #c - 1
            if c == "\r" and sub(s, pos + 1, pos + 1) == "\n" then
                stop = stop + 1
            end
            list[#list + 1] = sub(s, start, keep and stop or pos - 1)
            start = stop + 1
            pos = start
        else
            local _, stop = find(s, "^[ -~]+", pos)
            pos = (stop or pos + #c - 1) + 1
        end
    end
    if start <= #s then
        list[#list + 1] = sub(s, start)
    end
    charge(#list)
    return value.list(list)
end

S.partition = function(s, args, kw)
    local sep = need_string(bind("partition", args, kw, names "sep", 1))
    if sep == "" then
        fail("empty separator")
    end
    local at, stop = value.find(s, sep)
    if not at then
        return value.tuple({ s, "", "" })
    end
    return value.tuple({ sub(s, 1, at - 1), sep, sub(s, stop + 1) })
end

S.rpartition = function(s, args, kw)
    local sep = need_string(bind("rpartition", args, kw, names "sep", 1))
    if sep == "" then
        fail("empty separator")
    end
    local at = find_last(s, sep)
    if not at then
        return value.tuple({ "", "", s })
    end
    return value.tuple({ sub(s, 1, at - 1), sep, sub(s, at + #sep) })
end

--- s with old replaced by new, max times if max >= 0.
function methods.replace(s, old, new, max)
    if old == "" then
        local list = unicode.chars(s)
        bytes(#s + (#list + 1) * #new)
        charge(#list)
        if max < 0 or max > #list + 1 then
            max = #list + 1
        end
        local out = {}
        for i = 1, #list + 1 do
            out[i] = (i <= max and new or "") .. (list[i] or "")
        end
        return table.concat(out)
    end
    local list = pieces_of(s, old, max)
    if #list == 1 then
        return s
    end
    charge(#list)
    bytes(#s + (#list - 1) * (#new - #old))
    return table.concat(list, new)
end

S.replace = function(s, args, kw)
    local old, new, max = bind("replace", args, kw, names "old new count", 2)
    return methods.replace(s, need_string(old), need_string(new),
                           max == nil and -1 or need_int(max))
end

--- items of v joined by sep, each already a string.
function methods.join(sep, list)
    local size = #sep * math.max(0, #list - 1)
    charge(#list)
    for i = 1, #list do
        size = size + #list[i]
    end
    bytes(size)
    return table.concat(list, sep)
end

S.join = function(s, args, kw)
    local list = value.items(bind("join", args, kw, names "iterable", 1))
    for i = 1, #list do
        if type(list[i]) ~= "string" then
            value.type_error(string.format("sequence item %d: expected str "
                .. "instance, %s found", i - 1, value.type_name(list[i])))
        end
    end
    return methods.join(s, list)
end

S.format = function(s, args, kw)
    return formatting.str_format(s, args, kw)
end

local function pad_method(name, align)
    S[name] = function(s, args, kw)
        local width, fill = bind(name, args, kw, names "width fillchar", 1)
        if fill ~= nil and value.len(need_string(fill)) ~= 1 then
            value.type_error("The fill character must be exactly one "
                             .. "character long")
        end
        return formatting.pad(s, need_int(width), align, fill)
    end
end
pad_method("ljust", "<")
pad_method("rjust", ">")

S.center = function(s, args, kw)
    local width, fill = bind("center", args, kw, names "width fillchar", 1)
    width = need_int(width)
    local missing = width - value.len(s)
    if missing <= 0 then
        return s
    end
    -- CPython puts the odd one on the left only if the width is odd too
    local left = math.floor(missing / 2) + (missing % 2) * (width % 2)
    bytes(#s + missing * #(fill or " "))
    return rep(fill or " ", left) .. s .. rep(fill or " ", missing - left)
end

S.zfill = function(s, args, kw)
    local width = need_int(bind("zfill", args, kw, names "width", 1))
    local sign = match(s, "^[-+]") or ""
    return sign .. formatting.pad(sub(s, #sign + 1), width - #sign, ">", "0")
end

-- Strings: questions ---------------------------------------------------------

local function ascii_only(name, pattern)
    plain_method(name, function(s)
        if not unicode.is_ascii(s) then
            fail(name .. " of non-ASCII text is not supported")
        end
        return find(s, pattern) ~= nil
    end)
end
ascii_only("isdigit", "^%d+$")
ascii_only("isdecimal", "^%d+$")
ascii_only("isnumeric", "^%d+$")
ascii_only("isalpha", "^%a+$")
ascii_only("isalnum", "^%w+$")
ascii_only("isidentifier", "^[%a_][%w_]*$")
plain_method("isascii", unicode.is_ascii)
plain_method("isspace", function(s)
    return s ~= "" and unicode.is_space(s)
end)
plain_method("islower", function(s)
    return unicode.lower(s) == s and unicode.upper(s) ~= s
end)
plain_method("isupper", function(s)
    return unicode.upper(s) == s and unicode.lower(s) ~= s
end)
plain_method("istitle", function(s)
    return unicode.title(s) == s
           and (unicode.lower(s) ~= s or unicode.upper(s) ~= s)
end)

-- Lists ----------------------------------------------------------------------

A.index = function(list, args, kw)
    local item = bind("index", args, kw, names "value", 1)
    charge(#list)
    for i = 1, #list do
        if value.equal(list[i], item) then
            return i - 1
        end
    end
    fail(value.repr(item) .. " is not in list")
end

A.count = function(list, args, kw)
    local item, n = bind("count", args, kw, names "value", 1), 0
    charge(#list)
    for i = 1, #list do
        if value.equal(list[i], item) then
            n = n + 1
        end
    end
    return n
end

A.copy = function(list)
    return list
end
T.index, T.count = A.index, A.count

-- Dicts ----------------------------------------------------------------------

--- (key, value) tuples of a dict
function methods.pairs(d)
    local keys, list = json.canonical_keys(d), {}
    charge(2 * #keys)
    for i = 1, #keys do
        list[i] = value.tuple({ keys[i], rawget(d, keys[i]) })
    end
    return list
end

D.items = function(d, args, kw)
    bind("items", args, kw, NONE)
    return value.view(methods.pairs(d), "dict_items")
end

D.keys = function(d, args, kw)
    bind("keys", args, kw, NONE)
    return value.view(value.join_lists(json.canonical_keys(d), {}),
                      "dict_keys")
end

D.values = function(d, args, kw)
    bind("values", args, kw, NONE)
    local keys, list = json.canonical_keys(d), {}
    charge(#keys)
    for i = 1, #keys do
        list[i] = rawget(d, keys[i])
    end
    return value.view(list, "dict_values")
end

D.get = function(d, args, kw)
    local key, default = bind("get", args, kw, names "key default", 1)
    local found = rawget(d, value.key(key))
    if found ~= nil then
        return found
    end
    return default == nil and null or default
end

D.copy = function(d)
    return d
end

methods.unsafe = {
    array = { append = true, clear = true, extend = true, insert = true,
              pop = true, remove = true, reverse = true, sort = true },
    object = { clear = true, pop = true, popitem = true, setdefault = true,
               update = true },
}

return methods
