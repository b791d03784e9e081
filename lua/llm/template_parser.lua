--- llm.template_parser: tokens -> syntax tree; expressions here, statements in
-- template_statements.lua.
--
-- The grammar is that of Jinja 3.1 with loop controls.  A node is a table
-- {tag, line = ..., height = ...}; its other fields are named where it is
-- made.  Nesting and height are bounded, so that nothing later recurses
-- further than that.

local lexer = require "llm.template_lexer"

local parser = {}

local MAX_DEPTH = 100           -- nesting of statements and of brackets
local MAX_HEIGHT = 400          -- of an expression tree: a + b + c ...

local Parser = {}
Parser.__index = Parser

local DESCRIBE = {
    begin_print = "begin of print statement",
    end_print = "end of print statement",
    begin_block = "begin of statement block",
    end_block = "end of statement block",
    data = "template data / text", eof = "end of template",
}

local function describe(token)
    return DESCRIBE[token.type] or "'" .. tostring(token.value) .. "'"
end

function Parser:fail(message, line)
    error({ kind = "syntax error", detail = message,
            line = line or self.token.line }, 0)
end

function Parser:next()
    local token = self.token
    if token.type ~= "eof" then
        self.pos = self.pos + 1
        self.token = self.tokens[self.pos]
    end
    return token
end

function Parser:peek()
    return self.tokens[self.pos + 1] or self.token
end

function Parser:is(type, value)
    local token = self.token
    return token.type == type and (value == nil or token.value == value)
end

function Parser:is_op(value)
    return self:is("op", value)
end

function Parser:is_name(value)
    return self:is("name", value)
end

function Parser:skip(type, value)
    if self:is(type, value) then
        return self:next()
    end
    return nil
end

function Parser:expect(type, value)
    if not self:is(type, value) then
        self:fail("expected token '" .. (value or DESCRIBE[type] or type)
                  .. "', got " .. describe(self.token))
    end
    return self:next()
end

function Parser:enter()
    self.depth = self.depth + 1
    if self.depth > MAX_DEPTH then
        self:fail("nested deeper than " .. MAX_DEPTH)
    end
end

function Parser:leave()
    self.depth = self.depth - 1
end

-- A node whose height is one more than that of its children.
function Parser:node(tag, line, fields, ...)
    local height = 0
    for i = 1, select("#", ...) do
        local child = (select(i, ...))
        if child and child.height and child.height > height then
            height = child.height
        end
    end
    if height >= MAX_HEIGHT then
        self:fail("expression longer than " .. MAX_HEIGHT .. " steps", line)
    end
    fields.tag, fields.line, fields.height = tag, line, height + 1
    return fields
end

local function tallest(list)
    local node
    for i = 1, #list do
        local item = list[i]
        if not node or (item.height or 0) > (node.height or 0) then
            node = item
        end
    end
    return node
end

-- Expressions ----------------------------------------------------------------

function Parser:expression()
    self:enter()
    local node = self:condition()
    self:leave()
    return node
end

function Parser:condition()
    local line = self.token.line
    local node = self:logic_or()
    while self:skip("name", "if") do
        local test = self:logic_or()
        local other
        if self:skip("name", "else") then
            self:enter()
            other = self:condition()
            self:leave()
        end
        node = self:node("cond", line,
            { test = test, yes = node, no = other }, test, node, other)
    end
    return node
end

function Parser:logic_or()
    local left = self:logic_and()
    while self:is_name("or") do
        local line = self:next().line
        local right = self:logic_and()
        left = self:node("or", line, { left, right }, left, right)
    end
    return left
end

function Parser:logic_and()
    local left = self:logic_not()
    while self:is_name("and") do
        local line = self:next().line
        local right = self:logic_not()
        left = self:node("and", line, { left, right }, left, right)
    end
    return left
end

function Parser:logic_not()
    if self:is_name("not") then
        local line = self:next().line
        self:enter()
        local node = self:logic_not()
        self:leave()
        return self:node("not", line, { node }, node)
    end
    return self:compare()
end

local COMPARE = { ["=="] = true, ["!="] = true, ["<"] = true, ["<="] = true,
                  [">"] = true, [">="] = true }

function Parser:compare_op()
    local token = self.token
    if token.type == "op" and COMPARE[token.value] then
        return self:next().value
    elseif self:skip("name", "in") then
        return "in"
    elseif self:is_name("not") and self:peek().type == "name"
        and self:peek().value == "in"
    then
        self:next()
        self:next()
        return "not in"
    end
    return nil
end

function Parser:compare()
    local line = self.token.line
    local first = self:sum()
    local ops, operands = {}, {}
    while true do
        local op = self:compare_op()
        if not op then
            break
        end
        ops[#ops + 1] = op
        operands[#operands + 1] = self:sum()
    end
    if #ops == 0 then
        return first
    end
    return self:node("compare", line,
        { first = first, ops = ops, operands = operands },
        first, tallest(operands))
end

function Parser:binary(operators, operand)
    local left = operand(self)
    while self.token.type == "op" and operators[self.token.value] do
        local op = self:next()
        local right = operand(self)
        left = self:node("binary", op.line,
            { op = op.value, left, right }, left, right)
    end
    return left
end

local SUM = { ["+"] = true, ["-"] = true }
local PRODUCT = { ["*"] = true, ["/"] = true, ["//"] = true, ["%"] = true }
local POWER = { ["**"] = true }

function Parser:sum()
    return self:binary(SUM, self.concat)
end

function Parser:concat()
    local line = self.token.line
    local parts = { self:product() }
    while self:skip("op", "~") do
        parts[#parts + 1] = self:product()
    end
    if #parts == 1 then
        return parts[1]
    end
    return self:node("concat", line, parts, tallest(parts))
end

function Parser:product()
    return self:binary(PRODUCT, self.power)
end

function Parser:power()
    return self:binary(POWER, self.unary)
end

function Parser:unary(no_filter)
    local line = self.token.line
    local node
    if self:is_op("-") or self:is_op("+") then
        local op = self:next().value
        self:enter()
        local inner = self:unary(true)
        self:leave()
        node = self:node("sign", line, { op = op, inner }, inner)
    else
        node = self:primary()
    end
    node = self:postfix(node)
    if not no_filter then
        node = self:filters(node)
    end
    return node
end

local CONSTANTS = { ["true"] = true, ["True"] = true, ["false"] = false,
                    ["False"] = false }

function Parser:primary()
    local token = self.token
    local line = token.line
    if token.type == "name" then
        self:next()
        if CONSTANTS[token.value] ~= nil then
            return self:node("const", line, { value = CONSTANTS[token.value] })
        elseif token.value == "none" or token.value == "None" then
            return self:node("none", line, {})
        end
        return self:node("name", line, { name = token.value })
    elseif token.type == "string" then
        local parts = {}
        while self:is("string") do
            parts[#parts + 1] = self:next().value
        end
        return self:node("const", line, { value = table.concat(parts) })
    elseif token.type == "integer" or token.type == "float" then
        self:next()
        return self:node("const", line, { value = token.value })
    elseif self:is_op("(") then
        self:next()
        self:enter()
        local node = self:tuple({ parens = true })
        self:leave()
        self:expect("op", ")")
        return node
    elseif self:is_op("[") then
        return self:list()
    elseif self:is_op("{") then
        return self:dict()
    end
    self:fail("unexpected " .. describe(token))
end

function Parser:list()
    local line = self:next().line
    local items = {}
    while not self:is_op("]") do
        if #items > 0 then
            self:expect("op", ",")
        end
        if self:is_op("]") then
            break
        end
        items[#items + 1] = self:expression()
    end
    self:expect("op", "]")
    return self:node("list", line, items, tallest(items))
end

function Parser:dict()
    local line = self:next().line
    local keys, values = {}, {}
    while not self:is_op("}") do
        if #keys > 0 then
            self:expect("op", ",")
        end
        if self:is_op("}") then
            break
        end
        keys[#keys + 1] = self:expression()
        self:expect("op", ":")
        values[#values + 1] = self:expression()
    end
    self:expect("op", "}")
    return self:node("dict", line, { keys = keys, values = values },
                     tallest(keys), tallest(values))
end

function Parser:is_tuple_end(o)
    local token = self.token
    return token.type == "end_print" or token.type == "end_block"
        or token.type == "eof" or self:is_op(")")
        or (o.stop and self:is_name(o.stop))
end

-- One expression, or several with commas: a tuple.  o.parens: it stands in
-- parentheses; o.no_cond: "x if y" is not part of it; o.stop: a name that
-- ends it; o.item: the parser of an item.
function Parser:tuple(o)
    local line = self.token.line
    local item = o.item or (o.no_cond and self.logic_or) or self.expression
    local items, is_tuple = {}, false
    while true do
        if #items > 0 then
            self:expect("op", ",")
        end
        if self:is_tuple_end(o) then
            break
        end
        items[#items + 1] = item(self)
        if not self:is_op(",") then
            break
        end
        is_tuple = true
    end
    if not is_tuple then
        if items[1] then
            return items[1]
        elseif not o.parens then
            self:fail("Expected an expression, got " .. describe(self.token))
        end
    end
    return self:node("tuple", line, items, tallest(items))
end

function Parser:postfix(node)
    while true do
        if self:is_op(".") or self:is_op("[") then
            node = self:subscript(node)
        elseif self:is_op("(") then
            node = self:call(node)
        else
            return node
        end
    end
end

function Parser:filters(node)
    while true do
        if self:is_op("|") then
            node = self:filter(node)
        elseif self:is_name("is") then
            node = self:test(node)
        elseif self:is_op("(") then
            node = self:call(node)
        else
            return node
        end
    end
end

function Parser:subscript(node)
    local token = self:next()
    local line = token.line
    if token.value == "." then
        local attr = self:next()
        if attr.type == "name" then
            return self:node("attr", line, { node, name = attr.value }, node)
        elseif attr.type == "integer" then
            local key = self:node("const", line, { value = attr.value })
            return self:node("item", line, { node, key }, node)
        end
        self:fail("expected name or number", attr.line)
    end
    self:enter()
    local args = {}
    while not self:is_op("]") do
        if #args > 0 then
            self:expect("op", ",")
        end
        args[#args + 1] = self:subscript_arg()
    end
    self:leave()
    self:expect("op", "]")
    if #args == 1 then
        local arg = args[1]
        if arg.tag == "slice" then
            return self:node("slice", line, { node, bounds = arg.bounds },
                             node, arg)
        end
        return self:node("item", line, { node, arg }, node, arg)
    elseif #args == 0 then
        self:fail("expected subscript expression")
    end
    local key = self:node("tuple", line, args, tallest(args))
    return self:node("item", line, { node, key }, node, key)
end

-- Inside [ ]: an expression or start:stop:step, each part optional.
function Parser:subscript_arg()
    local line = self.token.line
    local bounds, i = {}, 1
    if not self:is_op(":") then
        local node = self:expression()
        if not self:is_op(":") then
            return node
        end
        bounds[1] = node
    end
    while i < 3 and self:skip("op", ":") do
        i = i + 1
        if not (self:is_op(":") or self:is_op("]") or self:is_op(",")) then
            bounds[i] = self:expression()
        end
    end
    return self:node("slice", line, { bounds = bounds },
                     bounds[1], bounds[2], bounds[3])
end

-- ( args ): {args, names, values, dyn_args, dyn_kwargs} of nodes
function Parser:call_args()
    self:expect("op", "(")
    self:enter()
    local a = { args = {}, names = {}, values = {} }
    local n = 0
    while not self:is_op(")") do
        if n > 0 then
            self:expect("op", ",")
            if self:is_op(")") then
                break
            end
        end
        n = n + 1
        if self:skip("op", "*") then
            a.dyn_args = self:expression()
        elseif self:skip("op", "**") then
            a.dyn_kwargs = self:expression()
        elseif self.token.type == "name" and self:peek().type == "op"
            and self:peek().value == "="
        then
            a.names[#a.names + 1] = self:next().value
            self:next()
            a.values[#a.values + 1] = self:expression()
        else
            if #a.names > 0 or a.dyn_kwargs then
                self:fail("invalid syntax for function call expression")
            end
            a.args[#a.args + 1] = self:expression()
        end
    end
    self:expect("op", ")")
    self:leave()
    return a
end

function Parser:with_args(tag, line, node, fields, a)
    fields[1] = node
    fields.args = a
    return self:node(tag, line, fields, node, tallest(a.args),
                     tallest(a.values), a.dyn_args, a.dyn_kwargs)
end

local NO_ARGS = { args = {}, names = {}, values = {} }

function Parser:call(node)
    local line = self.token.line
    return self:with_args("call", line, node, {}, self:call_args())
end

function Parser:dotted_name()
    local name = self:expect("name").value
    while self:skip("op", ".") do
        name = name .. "." .. self:expect("name").value
    end
    return name
end

-- node is what goes in; nil in {% filter %} and {% set x | f %}
function Parser:filter(node)
    local line = self:next().line
    local name = self:dotted_name()
    local a = self:is_op("(") and self:call_args() or NO_ARGS
    return self:with_args("filter", line, node, { name = name }, a)
end

local TEST_ARG = { name = true, string = true, integer = true, float = true }
local NO_TEST_ARG = { ["else"] = true, ["or"] = true, ["and"] = true,
                      ["if"] = true }

function Parser:test(node)
    local line = self:next().line
    local negate = self:skip("name", "not") ~= nil
    local name = self:dotted_name()
    local token, a = self.token, NO_ARGS
    if self:is_op("(") then
        a = self:call_args()
    elseif (TEST_ARG[token.type] or self:is_op("[") or self:is_op("{"))
        and not (token.type == "name" and NO_TEST_ARG[token.value])
    then
        if self:is_name("is") then
            self:fail("You cannot chain multiple tests with is")
        end
        local arg = self:postfix(self:primary())
        a = { args = { arg }, names = {}, values = {} }
    end
    local test = self:with_args("test", line, node, { name = name }, a)
    return negate and self:node("not", line, { test }, test) or test
end

-- Entry ----------------------------------------------------------------------

for name, method in pairs(require "llm.template_statements") do
    Parser[name] = method
end

--- The syntax tree of a template: a list of statement nodes.
function parser.parse(source)
    local tokens = lexer.tokens(source)
    local self = setmetatable({
        tokens = tokens, pos = 1, token = tokens[1], depth = 0, loops = 0,
    }, Parser)
    return (self:body({ eof = true }))
end

return parser
