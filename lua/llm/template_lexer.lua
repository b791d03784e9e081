--- llm.template_lexer: Jinja source -> tokens.
--
-- Follows Jinja 3.1 with trim_blocks and lstrip_blocks, as transformers sets
-- them: the newline after a block or comment goes, and so does white space
-- between the start of a line and a block or comment.  '-' strips all white
-- space on its side, '+' keeps it.
--
-- A token is {type, value, line}; type is data, begin_print, end_print,
-- begin_block, end_block, name, string, integer, float, op or eof.

local json = require "llm.json"
local unicode = require "llm.unicode"

local byte, find, gsub, match, sub =
    string.byte, string.find, string.gsub, string.match, string.sub

local lexer = {}

local OPERATORS = {}
for op in string.gmatch(
    "// ** == != >= <= + - / * % ~ [ ] ( ) { } > < = . : | , ;", "%S+")
do
    OPERATORS[op] = true
end
local CLOSES = { [")"] = "(", ["]"] = "[", ["}"] = "{" }

local ESCAPES = { n = "\n", t = "\t", r = "\r", a = "\a", b = "\b", f = "\f",
                  v = "\v", ["\\"] = "\\", ["'"] = "'", ['"'] = '"',
                  ["\n"] = "" }
local HEX = { x = 2, u = 4, U = 8 }

local function count_lines(s)
    local _, n = gsub(s, "\n", "")
    return n
end

local Lexer = {}
Lexer.__index = Lexer

function Lexer:fail(message)
    error({ kind = "syntax error", detail = message, line = self.line }, 0)
end

function Lexer:add(type, value)
    local n = self.n + 1
    if n > self.max_tokens then
        self:fail("template has more than " .. self.max_tokens .. " tokens")
    end
    self.n = n
    self.tokens[n] = { type = type, value = value, line = self.line }
end

-- Moves to pos, counting lines.
function Lexer:move(pos)
    self.line = self.line + count_lines(sub(self.src, self.pos, pos - 1))
    self.pos = pos
end

-- Text up to byte stop, with the white space control of the tag after it.
function Lexer:data(stop, sign, is_print)
    local text = sub(self.src, self.pos, stop)
    local line_start = self.pos == 1
        or sub(self.src, self.pos - 1, self.pos - 1) == "\n"
    if sign == "-" then
        text = unicode.strip(text, false, true)
    elseif sign ~= "+" and not is_print then
        local last = match(text, "^.*\n()")
        if last or line_start then
            last = last or 1
            if unicode.is_space(sub(text, last)) then
                text = sub(text, 1, last - 1)
            end
        end
    end
    if text ~= "" then
        self:add("data", text)
    end
    self:move(stop + 1)
end

-- Skips all white space from pos on.
function Lexer:after_strip(pos)
    while true do
        pos = find(self.src, "[^ \t\n\r\f\v]", pos) or #self.src + 1
        local c = match(self.src, "^[%z\1-\255][\128-\191]*", pos)
        if not c or not unicode.SPACE[c] then
            return pos
        end
        pos = pos + #c
    end
end

function Lexer:string(quote)
    local src, pos = self.src, self.pos + 1
    local parts, n = {}, 0
    while true do
        local at = find(src, "[\\'\"]", pos)
        if not at then
            self:fail("string without end")
        end
        n = n + 1
        parts[n] = sub(src, pos, at - 1)
        local c = sub(src, at, at)
        if c == quote then
            self:add("string", table.concat(parts))
            return self:move(at + 1)
        elseif c ~= "\\" then
            n = n + 1
            parts[n] = c
            pos = at + 1
        else
            n = n + 1
            parts[n], pos = self:escape(at + 1)
        end
    end
end

-- The escape whose letter is at pos: its text and the position after it.
function Lexer:escape(pos)
    local src = self.src
    local c = sub(src, pos, pos)
    local octal = match(src, "^[0-7][0-7]?[0-7]?", pos)
    if octal then
        return unicode.char(tonumber(octal, 8)), pos + #octal
    elseif HEX[c] then
        local hex = match(src, "^%x+", pos + 1)
        hex = hex and sub(hex, 1, HEX[c])
        if not hex or #hex < HEX[c] then
            self:fail("bad \\" .. c .. " escape in a string")
        end
        local code = tonumber(hex, 16)
        if code > 0x10ffff then
            self:fail("bad \\" .. c .. " escape in a string")
        elseif code >= 0xd800 and code <= 0xdfff then
            code = 0xfffd
        end
        return unicode.char(code), pos + 1 + #hex
    elseif c == "N" then
        self:fail("\\N escapes are not supported")
    elseif c == "" then
        self:fail("string without end")
    end
    return ESCAPES[c] or "\\" .. c, pos + 1
end

-- A number at the current position, or nothing.
function Lexer:number()
    local src, pos = self.src, self.pos
    local prefix, digits = match(src, "^0([xXoObB])([%x_]+)", pos)
    if prefix then
        local base = ({ x = 16, o = 8, b = 2 })[prefix:lower()]
        local value = tonumber((gsub(digits, "_", "")), base)
        if not value then
            self:fail("bad number")
        end
        self:add("integer", value)
        return self:move(pos + 2 + #digits)
    end
    local whole = match(src, "^%d[%d_]*", pos)
    local stop = pos + #whole
    local is_float = false
    if sub(src, pos - 1, pos - 1) ~= "." then
        local frac = match(src, "^%.%d[%d_]*", stop)
        local exp = match(src, "^[eE][+-]?%d[%d_]*", stop + #(frac or ""))
        is_float = frac ~= nil or exp ~= nil
        stop = stop + #(frac or "") + #(exp or "")
    end
    local value = tonumber((gsub(sub(src, pos, stop - 1), "_", "")))
    if is_float then
        self:add("float", json.float(value))
    elseif value > json.MAX_INT then
        self:add("integer", json.int(match(gsub(whole, "_", ""),
                                           "^0*(%d+)$")))
    else
        self:add("integer", value)
    end
    self:move(stop)
end

function Lexer:operator()
    local op = sub(self.src, self.pos, self.pos + 1)
    if not OPERATORS[op] then
        op = sub(op, 1, 1)
    end
    if not OPERATORS[op] then
        self:fail("unexpected char '"
            .. match(self.src, "^[%z\1-\255][\128-\191]*", self.pos) .. "'")
    end
    local open = self.open
    if CLOSES[op] then
        if open[#open] ~= CLOSES[op] then
            self:fail("unexpected '" .. op .. "'")
        end
        open[#open] = nil
    elseif op == "(" or op == "[" or op == "{" then
        open[#open + 1] = op
    end
    self:add("op", op)
    self:move(self.pos + #op)
end

-- The end of a tag at the current position, if it is there: true.
function Lexer:tag_end(is_print)
    if #self.open > 0 then
        return false
    end
    local close = is_print and "}}" or "%}"
    local src, pos = self.src, self.pos
    local sign = match(src, "^[-+]", pos) or ""
    if is_print and sign == "+" then
        return false
    elseif sub(src, pos + #sign, pos + #sign + 1) ~= close then
        return false
    end
    self:add(is_print and "end_print" or "end_block")
    self:move(self:tag_after(pos + #sign + 2, sign, is_print))
    return true
end

-- Where text goes on after a tag that ends before pos.
function Lexer:tag_after(pos, sign, is_print)
    if sign == "-" then
        return self:after_strip(pos)
    elseif sign == "" and not is_print
        and sub(self.src, pos, pos) == "\n"
    then
        return pos + 1
    end
    return pos
end

-- Everything between {{ and }} or {% and %}.
function Lexer:tag(is_print)
    local src = self.src
    self.open = {}
    while true do
        self:move(find(src, "[^ \t\n\r\f\v]", self.pos) or #src + 1)
        local c = byte(src, self.pos)
        if not c then
            self:fail("unexpected end of template")
        elseif self:tag_end(is_print) then
            return
        elseif c >= 48 and c <= 57 then
            self:number()
        elseif c == 34 or c == 39 then
            self:string(sub(src, self.pos, self.pos))
        else
            local name = match(src, "^[%a_\128-\255][%w_\128-\255]*",
                               self.pos)
            if name then
                self:add("name", name)
                self:move(self.pos + #name)
            else
                self:operator()
            end
        end
    end
end

function Lexer:comment()
    local stop = find(self.src, "#}", self.pos, true)
    if not stop then
        self:fail("missing end of comment tag")
    end
    local sign = sub(self.src, stop - 1, stop - 1)
    if stop - 1 < self.pos or (sign ~= "-" and sign ~= "+") then
        sign = ""
    end
    self:move(self:tag_after(stop + 2, sign, false))
end

-- {% raw %} text {% endraw %}; body is where the text begins.
function Lexer:raw(body, sign)
    self:move(sign == "-" and self:after_strip(body) or body)
    local from = self.pos
    while true do
        local at, _, before = find(self.src, "{%%([-+]?)%s*endraw%s*",
                                   from)
        if not at then
            self:fail("missing end of raw directive")
        end
        local _, stop, after = find(self.src,
            "^{%%[-+]?%s*endraw%s*([-+]?)%%}", at)
        if stop then
            self:data(at - 1, before, false)
            return self:move(self:tag_after(stop + 1, after, false))
        end
        from = at + 2
    end
end

function Lexer:run()
    local src = self.src
    while self.pos <= #src do
        local at, _, kind = find(src, "{([{%%#])", self.pos)
        if not at then
            self:add("data", sub(src, self.pos))
            self:move(#src + 1)
            break
        end
        local sign = match(src, "^[-+]", at + 2) or ""
        self:data(at - 1, sign, kind == "{")
        local _, raw_end, raw_sign = find(src,
            "^{%%[-+]?%s*raw%s*(%-?)%%}", at)
        if raw_end then
            self:raw(raw_end + 1, raw_sign)
        else
            self:move(at + 2 + #sign)
            if kind == "#" then
                self:comment()
            else
                local is_print = kind == "{"
                self:add(is_print and "begin_print" or "begin_block")
                self:tag(is_print)
            end
        end
    end
    self:add("eof")
    return self.tokens
end

--- The tokens of a template; raises {kind, detail, line}.
function lexer.tokens(source, max_tokens)
    source = gsub(gsub(source, "\r\n", "\n"), "\r", "\n")
    if sub(source, -1) == "\n" then
        source = sub(source, 1, -2)
    end
    return setmetatable({
        src = source, pos = 1, line = 1, n = 0, tokens = {}, open = {},
        max_tokens = max_tokens or 200000,
    }, Lexer):run()
end

return lexer
