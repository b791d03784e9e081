--- llm.template_tests: Jinja's "is" tests, test(v, args, kw) -> boolean.

local json = require "llm.json"
local limits = require "llm.template_limits"
local methods = require "llm.template_methods"
local value = require "llm.template_value"

local tests = {}
local all = {}

local kind, null = value.kind, json.null

local function type_test(name, f)
    all[name] = function(v, args, kw)
        value.bind(name, args, kw, {})
        return f(v, kind(v))
    end
end

type_test("defined", function(_, k) return k ~= "undefined" end)
type_test("undefined", function(_, k) return k == "undefined" end)
type_test("none", function(v) return v == null end)
type_test("string", function(_, k) return k == "string" end)
type_test("mapping", function(_, k) return k == "object" end)
type_test("boolean", function(_, k) return k == "boolean" end)
type_test("true", function(v) return v == true end)
type_test("false", function(v) return v == false end)
type_test("callable", function(_, k)
    return k == "callable" or k == "loop" or k == "undefined"
end)
type_test("number", function(v) return value.number(v) ~= nil end)
type_test("integer", function(v, k)
    local n, is_float = value.number(v)
    return k ~= "boolean" and n ~= nil and not is_float
end)
type_test("float", function(v)
    local n, is_float = value.number(v)
    return n ~= nil and is_float
end)
type_test("iterable", function(_, k)
    return k == "string" or k == "object" or k == "undefined" or k == "loop"
           or value.SEQUENCE[k] == true
end)
type_test("sequence", function(_, k)
    return k == "string" or k == "object" or k == "undefined"
           or k == "array" or k == "tuple"
end)
type_test("escaped", function() return false end)
type_test("odd", function(v)
    return value.equal(value.binary("%", v, 2), 1)
end)
type_test("even", function(v)
    return value.equal(value.binary("%", v, 2), 0)
end)
type_test("lower", function(v)
    return methods.string.islower(value.str(v), {})
end)
type_test("upper", function(v)
    return methods.string.isupper(value.str(v), {})
end)

local function relation(names, f)
    for name in names:gmatch("%S+") do
        all[name] = function(v, args, kw)
            return f(v, (value.bind(name, args, kw, { "other" }, 1)))
        end
    end
end

relation("eq equalto ==", value.equal)
relation("ne !=", function(a, b) return not value.equal(a, b) end)
relation("lt lessthan <", function(a, b)
    return value.compare("<", a, b) < 0
end)
relation("le <=", function(a, b) return value.compare("<=", a, b) <= 0 end)
relation("gt greaterthan >", function(a, b)
    return value.compare(">", a, b) > 0
end)
relation("ge >=", function(a, b) return value.compare(">=", a, b) >= 0 end)
relation("in", function(a, b) return value.contains(b, a) end)
relation("divisibleby", function(a, b)
    return value.equal(value.binary("%", a, b), 0)
end)
relation("sameas", function(a, b)
    return rawequal(a, b) or (kind(a) == kind(b) and kind(a) ~= "array"
        and kind(a) ~= "object" and value.equal(a, b))
end)

local function name_test(name, has)
    all[name] = function(v)
        return type(v) == "string" and has(v)
    end
end
name_test("filter", function(v)
    return require("llm.template_sequences")[v] ~= nil
end)
name_test("test", function(v) return all[v] ~= nil end)

function tests.has(name)
    return all[name] ~= nil
end

--- The test of a name.
function tests.get(name)
    local test = all[name]
    if not test then
        limits.fail("unknown test", "No test named '" .. name .. "'.")
    end
    return test
end

return tests
