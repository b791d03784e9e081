--- llm.template_sequences: filters on lists and dicts.
--
-- What Jinja returns as a generator is a list of kind "gen" here: always
-- true, without length.

local json = require "llm.json"
local limits = require "llm.template_limits"
local unicode = require "llm.unicode"
local value = require "llm.template_value"
local access = require "llm.template_access"
local methods = require "llm.template_methods"
local filters = require "llm.template_filters"
local tests = require "llm.template_tests"

local bind, names, items = value.bind, methods.names, value.items
local charge, null = limits.charge, json.null

local function given(v)
    return v ~= nil and v ~= null
end

local function flag(v)
    return v ~= nil and value.truth(v)
end

filters.first = function(v)
    local first = items(v)[1]
    if first == nil then
        return value.undefined("No first item, sequence was empty.")
    end
    return first
end

filters.last = function(v)
    local list = items(v)
    if #list == 0 then
        return value.undefined("No last item, sequence was empty.")
    end
    return list[#list]
end

filters.list = function(v)
    return value.list(value.join_lists(items(v), {}))
end

filters.items = function(v)
    if value.is_undefined(v) then
        return value.gen({})
    elseif value.kind(v) ~= "object" then
        value.type_error("Can only get item pairs from a mapping.")
    end
    return value.gen(methods.pairs(v))
end

filters.join = function(v, args, kw)
    local sep, attribute = bind("join", args, kw, names "d attribute")
    local get = given(attribute) and access.getter(attribute)
    local list, out = items(v), {}
    charge(#list)
    for i = 1, #list do
        local item = list[i]
        out[i] = value.str(get and get(item) or item)
    end
    return methods.join(sep == nil and "" or value.str(sep), out)
end

filters.reverse = function(v)
    if type(v) == "string" then
        return value.slice(v, nil, nil, -1)
    end
    local list, out = items(v), {}
    charge(#list)
    for i = #list, 1, -1 do
        out[#out + 1] = list[i]
    end
    return value.gen(out)
end

filters.sum = function(v, args, kw)
    local attribute, total = bind("sum", args, kw, names "attribute start")
    local get = given(attribute) and access.getter(attribute)
    total = total == nil and 0 or total
    for _, item in ipairs(items(v)) do
        charge(1)
        if get then
            item = get(item)
        end
        total = value.binary("+", total, item)
    end
    return total
end

-- map, select, reject ------------------------------------------------------------

local function rest(args, from)
    local out = {}
    for i = from, #args do
        out[#out + 1] = args[i]
    end
    return out
end

-- These filters take what is false for an empty list.
local function some_items(v)
    return value.truth(v) and items(v) or {}
end

local function named_filter(name)
    local f = filters[value.need_string(name, "filter name")]
    if not f then
        limits.fail("unknown filter", "No filter named '" .. name .. "'.")
    end
    return f
end

filters.map = function(v, args, kw)
    local apply
    if #args == 0 and kw and kw.map.attribute ~= nil then
        apply = access.getter(kw.map.attribute, kw.map.default)
    elseif #args == 0 then
        limits.fail("missing argument", "map requires a filter argument")
    else
        local f, more = named_filter(args[1]), rest(args, 2)
        apply = function(item)
            return f(item, more, kw)
        end
    end
    local list, out = some_items(v), {}
    for i = 1, #list do
        charge(1)
        out[i] = apply(list[i])
    end
    return value.gen(out)
end

local function chooser(name, by_attribute, wanted)
    filters[name] = function(v, args, kw)
        local at, get = 1, nil
        if by_attribute then
            if args[1] == nil then
                limits.fail("missing argument", "Missing parameter for "
                            .. "attribute name")
            end
            get, at = access.getter(args[1]), 2
        end
        local test, more
        if args[at] ~= nil then
            test = tests.get(value.need_string(args[at], "test name"))
            more = rest(args, at + 1)
        end
        local list, out = some_items(v), {}
        for i = 1, #list do
            charge(1)
            local item = list[i]
            local tested = item
            if get then
                tested = get(item)
            end
            local yes
            if test then
                yes = value.truth(test(tested, more, kw))
            else
                yes = value.truth(tested)
            end
            if yes == wanted then
                out[#out + 1] = item
            end
        end
        return value.gen(out)
    end
end
chooser("select", false, true)
chooser("reject", false, false)
chooser("selectattr", true, true)
chooser("rejectattr", true, false)

-- Sorting --------------------------------------------------------------------

local function fold_case(v)
    return type(v) == "string" and unicode.lower(v) or v
end

-- Stable merge sort of list by keys (same indices); returns the items.
local function sorted(list, keys, reverse)
    local n = #list
    local order, other = {}, {}
    for i = 1, n do
        order[i] = i
    end
    local width = 1
    while width < n do
        charge(n)
        for low = 1, n, 2 * width do
            local mid, high = math.min(low + width, n + 1),
                math.min(low + 2 * width, n + 1)
            local a, b = low, mid
            for at = low, high - 1 do
                local take_right = false
                if a >= mid then
                    take_right = true
                elseif b < high then
                    local x, y = keys[order[a]], keys[order[b]]
                    if reverse then
                        take_right = value.compare("<", x, y) < 0
                    else
                        take_right = value.compare("<", y, x) < 0
                    end
                end
                if take_right then
                    other[at], b = order[b], b + 1
                else
                    other[at], a = order[a], a + 1
                end
            end
        end
        order, other = other, order
        width = 2 * width
    end
    local out = {}
    for i = 1, n do
        out[i] = list[order[i]]
    end
    return out
end

-- The key of an item: its attribute, or itself.
local function key_function(attribute, case_sensitive, default)
    local get = given(attribute) and access.getter(attribute, default)
    return function(item)
        charge(1)
        if get then
            item = get(item)
        end
        return case_sensitive and item or fold_case(item)
    end
end

-- The sort key for attributes "a,b.c": a list of them, as in Jinja.
local function keys_function(attribute, case_sensitive)
    local getters = {}
    if type(attribute) == "string" then
        for path in (attribute .. ","):gmatch("([^,]*),") do
            getters[#getters + 1] = access.getter(path)
        end
    elseif given(attribute) then
        getters[1] = access.getter(attribute)
    end
    return function(item)
        charge(1)
        local key = item
        if #getters > 0 then
            local parts = {}
            for i = 1, #getters do
                local part = getters[i](item)
                parts[i] = case_sensitive and part or fold_case(part)
            end
            return value.list(parts)
        end
        return case_sensitive and key or fold_case(key)
    end
end

local function keys_of(list, key)
    local keys = {}
    for i = 1, #list do
        keys[i] = key(list[i])
    end
    return keys
end

filters.sort = function(v, args, kw)
    local reverse, sensitive, attribute = bind("sort", args, kw,
        names "reverse case_sensitive attribute")
    local list = items(v)
    local keys = keys_of(list, keys_function(attribute, flag(sensitive)))
    return value.list(sorted(list, keys, flag(reverse)))
end

filters.dictsort = function(v, args, kw)
    local sensitive, by, reverse = bind("dictsort", args, kw,
        names "case_sensitive by reverse")
    by = by == nil and "key" or by
    if value.kind(v) ~= "object" then
        value.type_error("dictsort needs a mapping, not "
                         .. value.type_name(v))
    elseif by ~= "key" and by ~= "value" then
        limits.fail("invalid operation",
                    'You can only sort by either "key" or "value"')
    end
    local list = methods.pairs(v)
    local at = by == "key" and 1 or 2
    local keys = keys_of(list, function(pair)
        return flag(sensitive) and pair[at] or fold_case(pair[at])
    end)
    return value.list(sorted(list, keys, flag(reverse)))
end

local function extreme(name, sign)
    filters[name] = function(v, args, kw)
        local sensitive, attribute = bind(name, args, kw,
            names "case_sensitive attribute")
        local list = items(v)
        if #list == 0 then
            return value.undefined("No aggregated item, sequence was empty.")
        end
        local key = key_function(attribute, flag(sensitive))
        local best, best_key = list[1], key(list[1])
        for i = 2, #list do
            local k = key(list[i])
            if value.compare(sign > 0 and ">" or "<", k, best_key) * sign > 0
            then
                best, best_key = list[i], k
            end
        end
        return best
    end
end
extreme("max", 1)
extreme("min", -1)

filters.unique = function(v, args, kw)
    local sensitive, attribute = bind("unique", args, kw,
        names "case_sensitive attribute")
    local key = key_function(attribute, flag(sensitive))
    local seen, out = {}, {}
    for _, item in ipairs(items(v)) do
        local k = value.key(key(item))
        if not seen[k] then
            seen[k] = true
            out[#out + 1] = item
        end
    end
    return value.gen(out)
end

filters.groupby = function(v, args, kw)
    local attribute, default, sensitive = bind("groupby", args, kw,
        names "attribute default case_sensitive", 1)
    local key = key_function(attribute, flag(sensitive),
                             given(default) and default or nil)
    local list = items(v)
    local ordered = sorted(list, keys_of(list, key), false)
    local plain = access.getter(attribute, given(default) and default or nil)
    local groups, last = {}, nil
    for i = 1, #ordered do
        local k = key(ordered[i])
        if #groups == 0 or not value.equal(k, last) then
            local grouper, members = plain(ordered[i]), value.list({})
            local group = value.tuple({ grouper, members })
            group.fields = function(name)
                return name == "grouper" and grouper
                       or name == "list" and members or nil
            end
            groups[#groups + 1] = group
            last = k
        end
        local members = groups[#groups][2]
        members[#members + 1] = ordered[i]
    end
    return value.list(groups)
end

-- Cutting in pieces ----------------------------------------------------------

filters.batch = function(v, args, kw)
    local size, fill = bind("batch", args, kw, names "linecount fill_with",
                            1)
    size = value.need_int(size)
    local out, row = {}, nil
    for _, item in ipairs(items(v)) do
        charge(1)
        if not row or #row >= size then
            row = {}
            out[#out + 1] = value.list(row)
        end
        row[#row + 1] = item
    end
    if row and given(fill) then
        charge(math.max(0, size - #row))
        for i = #row + 1, size do
            row[i] = fill
        end
    end
    return value.gen(out)
end

filters.slice = function(v, args, kw)
    local slices, fill = bind("slice", args, kw, names "slices fill_with", 1)
    slices = value.need_int(slices)
    if slices < 1 then
        limits.fail("invalid operation", "integer modulo by zero")
    end
    local list, out = items(v), {}
    charge(slices + #list)
    local each, extra, at = math.floor(#list / slices), #list % slices, 0
    for i = 1, slices do
        local row = {}
        for _ = 1, each + (i <= extra and 1 or 0) do
            at = at + 1
            row[#row + 1] = list[at]
        end
        if given(fill) and i > extra and extra > 0 then
            row[#row + 1] = fill
        end
        out[i] = value.list(row)
    end
    return value.gen(out)
end

return filters
