--- llm.template_access: attributes, items and calls of template values.
--
-- a.b looks for a method first and an item second, a["b"] the other way
-- round, as Jinja's sandbox does.

local json = require "llm.json"
local limits = require "llm.template_limits"
local methods = require "llm.template_methods"
local value = require "llm.template_value"

local access = {}

local kind, undefined, null = value.kind, value.undefined, json.null
local rawget, type = rawget, type

-- Jinja's name of the type in "'dict object' has no attribute 'x'".
local function object_name(v)
    if v == null then
        return "None"
    end
    return value.type_name(v) .. " object"
end

local function no_attribute(v, name)
    return undefined("'" .. object_name(v) .. "' has no attribute "
                     .. value.repr(name))
end

local function bound(v, name, method)
    return value.callable(name, function(args, kw)
        return method(v, args, kw)
    end)
end

-- A real attribute of v (not an item), or nil.
local function attribute(v, k, name)
    local list = methods[k]
    local method = list and list[name]
    if method then
        return bound(v, name, method)
    end
    local unsafe = methods.unsafe[k]
    if unsafe and unsafe[name] then
        return undefined("access to attribute '" .. name .. "' of '"
                         .. value.type_name(v) .. "' object is unsafe.",
                         "invalid operation")
    elseif k == "loop" or k == "tuple" then
        return v.fields and v.fields(name)
    elseif k == "namespace" then
        return rawget(v.fields, name)
    end
    return nil
end

--- v.name
function access.attr(v, name)
    local k = kind(v)
    if k == "object" then
        local found = attribute(v, k, name)
        if found == nil then
            found = rawget(v, name)
        end
        if found ~= nil then
            return found
        end
        return no_attribute(v, name)
    elseif k == "undefined" then
        value.undefined_error(v)
    end
    local found = attribute(v, k, name)
    if found ~= nil then
        return found
    end
    return no_attribute(v, name)
end

local function element(v, k, key)
    local n, is_float = value.number(key)
    if not n or is_float then
        return nil
    elseif k == "string" then
        local len = value.len(v)
        n = n < 0 and n + len or n
        return n >= 0 and n < len and value.substring(v, n + 1, n + 1) or nil
    end
    return rawget(v, n < 0 and n + #v + 1 or n + 1)
end

--- v[key]
function access.item(v, key)
    local k = kind(v)
    local found
    if k == "object" then
        if not value.SEQUENCE[kind(key)] and kind(key) ~= "object" then
            found = rawget(v, value.key(key))
        end
    elseif k == "array" or k == "tuple" or k == "string" then
        found = element(v, k, key)
    elseif k == "undefined" then
        value.undefined_error(v)
    end
    if found == nil and type(key) == "string" then
        found = attribute(v, k, key)
    end
    if found ~= nil then
        return found
    elseif type(key) == "string" then
        return no_attribute(v, key)
    end
    return undefined(object_name(v) .. " has no element " .. value.repr(key))
end

--- v(*args, **kw)
function access.call(v, args, kw)
    local k = kind(v)
    if k == "callable" or k == "loop" then
        return v.call(args, kw)
    elseif k == "undefined" then
        value.undefined_error(v)
    end
    value.type_error("'" .. value.type_name(v) .. "' object is not callable")
end

--- v.name(*args, **kw) without making the bound method.
function access.call_method(v, name, args, kw)
    local list = methods[kind(v)]
    local method = list and list[name]
    if method then
        return method(v, args, kw)
    end
    return access.call(access.attr(v, name), args, kw)
end

--- A function (item) -> value at path ("a.b" or "a.0", or an int); what is
-- undefined becomes default, if there is one.
function access.getter(path, default)
    local parts = {}
    if type(path) == "string" then
        for part in (path .. "."):gmatch("([^.]*)%.") do
            parts[#parts + 1] = part:find("^%d+$") and tonumber(part) or part
        end
    else
        parts[1] = path
    end
    return function(v)
        for i = 1, #parts do
            v = access.item(v, parts[i])
            if default ~= nil and value.is_undefined(v) then
                v = default
            end
        end
        return v
    end
end

--- Assigns ns.name; the only change a template can make.
function access.set_namespace(ns, name, v)
    if kind(ns) ~= "namespace" then
        limits.fail("invalid operation",
                    "cannot assign attribute on non-namespace object")
    end
    access.add_field(ns.fields, name, v)
end

--- Adds name to the fields of a namespace; "_" names are refused.
function access.add_field(fields, name, v)
    if type(name) == "string" and name:find("^_") then
        limits.fail("invalid operation", "Chat templates cannot store "
            .. "underscore-prefixed attributes on a namespace, but got "
            .. value.repr(name) .. ".")
    end
    if rawget(fields, name) == nil then
        local keys = json.canonical_keys(fields)
        keys[#keys + 1] = name
    end
    rawset(fields, name, v)
end

return access
