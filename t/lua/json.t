#!/usr/bin/env luajit
-- llm.json and llm.unicode.
local tap = dofile "t/tap.lua"
local json = require "llm.json"
local unicode = require "llm.unicode"

local function round_trip(text, want)
    tap.is(json.encode(json.decode(text)), want or text, text)
end

round_trip '{"z":1,"a":[true,false,null,{}],"m":{"y":[],"x":""}}'
round_trip('[1.5,-0.25,1e3,-0,1E-2,123456789012]',
           '[1.5,-0.25,1000,0,0.01,123456789012]')
round_trip '[9007199254740992,9223372036854775807,-9223372036854775808]'
round_trip('"\\u00e9\\ud83d\\ude00\\n\\/\\b\\f\\u0001"',
           '"é😀\\n/\\b\\f\\u0001"')
round_trip('"\\ud83d x \\ude00"', '"\239\191\189 x \239\191\189"')
round_trip('{"a":1,"b":2,"a":3}', '{"a":3,"b":2}')
round_trip(' [ 1 , { "a" : 2 } ] ', '[1,{"a":2}]')

for text, what in pairs {
    [""] = "unexpected end", ["{"] = "expected a key", ["[1"] = "expected",
    ["[1,]"] = "expected a value", ["{\"a\" 1}"] = "expected ':'",
    ["01"] = "bad number", ["1."] = "bad number", ["-"] = "bad number",
    ["1e"] = "bad number", ["\"a"] = "string without end",
    ["\"\\x\""] = "bad escape", ["\"\\u12g4\""] = "bad \\u escape",
    ["\"a\nb\""] = "control character", ["tru"] = "expected a value",
    ["1 2"] = "text after", ["[1}"] = "expected ',' or ']'",
    ["nullx"] = "text after", [("["):rep(300)] = "nested deeper",
    ["{\"a\":1,}"] = "expected a key", ["'a'"] = "expected a value",
    ["[\n1,\n x]"] = "line 3, column 2",
} do
    tap.fails(what, "refused: " .. text:sub(1, 20), json.decode, text)
end
tap.fails("a nil", "not a string", json.decode, nil)

-- what a hook does to a decoded object
local t = json.decode '{"b":1,"a":2,"c":3}'
t.a = nil
t.new, t.also = "x", {}
tap.is(json.encode(t), '{"b":1,"c":3,"also":{},"new":"x"}',
       "order is kept, new keys follow sorted")
tap.is(json.encode({ 1, "a", { x = json.null } }), '[1,"a",{"x":null}]',
       "plain tables")
tap.is(json.encode(json.array()), "[]", "an empty array")
tap.is(json.encode({ 2 ^ 64, -2 ^ 62 }),
       "[1.8446744073709552e+19,-4611686018427387904]", "large numbers")
tap.is(json.encode({}), "{}", "an empty table is an object")
tap.is(json.encode(json.normalize({ { b = 1, a = {} } })),
       '[{"a":{},"b":1}]', "normalize sorts plain tables")
tap.is(getmetatable(t), false, "metatables are hidden")
tap.fails("changed", "null is constant", function() json.null.x = 1 end)
tap.fails("function", "a function has no JSON", json.encode, { print })
tap.fails("NaN", "nor has NaN", json.encode, { 0 / 0 })
local loop = {}
loop[1] = loop
tap.fails("nested deeper", "nor a loop", json.encode, loop)
tap.fails("nested deeper", "normalize of a loop", json.normalize, loop)
tap.is(json.encode("a\255b\192\128"), '"a\239\191\189b\239\191\189\239\191\189"',
       "invalid UTF-8 is replaced")
local big = json.decode "9223372036854775807"
tap.is(tostring(big), "9223372036854775807", "a large integer keeps its text")
tap.is(big + 0, 2 ^ 63, "and can be added")

-- Python's repr of floats (values from CPython)
for text, want in pairs {
    ["0.1"] = "0.1", ["1e16"] = "1e+16", ["123456789.125"] = "123456789.125",
    ["1e-5"] = "1e-05", ["0.0001"] = "0.0001", ["1e15"] = "1000000000000000.0",
    ["5e-324"] = "5e-324", ["1.7976931348623157e308"] =
    "1.7976931348623157e+308", ["0.30000000000000004"] =
    "0.30000000000000004", ["2.0"] = "2.0", ["-1.25e-7"] = "-1.25e-07",
    ["9007199254740993"] = "9007199254740992.0",
    ["1e22"] = "1e+22", ["1e23"] = "1e+23", ["4.35"] = "4.35",
} do
    tap.is(json.repr_float(tonumber(text)), want, "repr " .. text)
end

tap.is(unicode.len("aé你😀"), 4, "length in code points")
tap.is(unicode.sub("aé你😀", 2, 3), "é你", "sub")
tap.is(unicode.upper("straße ŉ"), "STRASSE ʼN", "upper")
tap.is(unicode.lower("ΑΣ ΣΑ İ"), "ας σα i̇", "lower")
tap.is(unicode.title("ǆ they're 2nd"), "ǅ They'Re 2Nd", "title")
tap.is(unicode.strip("\227\128\128 a\194\160", true, true), "a", "strip")
for bytes, want in pairs { ["\192\128"] = 2, ["\237\160\128"] = 3,
    ["\244\144\128\128"] = 4, ["\226\130"] = 2, ["\240\159\152\128"] = 0 }
do
    local _, n = unicode.fix(bytes):gsub("\239\191\189", "")
    tap.is(n, want, "invalid bytes replaced: " .. want)
end

tap.done_testing()
