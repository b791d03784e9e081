--- llm.moderation: a filter for text that arrives in pieces.
--
--   local filter = moderation.new { words = { "secret" }, replace = "***" }
--   local text, hit = filter(piece, last)
--
-- text may be sent: it holds no forbidden word and nothing that could still
-- become one; the rest stays in the filter until more text or last decides.
-- However the text is cut into pieces, the result is the same.  hit is the
-- first forbidden word of this call as the text had it, or nil.
--
-- Options:
--   words    list of words or phrases, at least one
--   replace  what stands for a word: a string, or a function of the word
--            (default "***")
--   whole    match whole words only, not parts of longer ones
--   stop     end at the first hit: text is what came before it, and nothing
--            follows
--
-- Upper and lower case are the same, and invisible characters (zero width,
-- soft hyphen) inside a word do not hide it.  Of words that begin at one
-- place the longest counts.

local unicode = require "llm.unicode"

local moderation = {}

local concat = table.concat
local find, sub = string.find, string.sub

local INVISIBLE = {}
for _, code in ipairs { 0xad, 0x34f, 0x180e, 0x200b, 0x200c, 0x200d, 0x200e,
                        0x200f, 0x2060, 0x2061, 0x2062, 0x2063, 0x2064,
                        0xfeff }
do
    INVISIBLE[unicode.char(code)] = true
end

local FINAL_SIGMA, SIGMA = "\207\130", "\207\131"
local folded = {}

-- One character without its case.  The cache is bounded: text is foreign.
local n_folded = 0
local function fold(c)
    local f = folded[c]
    if not f then
        f = unicode.lower(c)
        f = f == FINAL_SIGMA and SIGMA or f
        if n_folded < 4096 then
            folded[c] = f
            n_folded = n_folded + 1
        end
    end
    return f
end

local function is_word_char(c)
    return c ~= nil and not INVISIBLE[c] and not unicode.SPACE[c]
        and (#c > 1 or find(c, "^[%w_]$") ~= nil)
end

-- Complete characters of text and the bytes of a cut one at its end.
local function split_chars(text)
    local rest = ""
    local at = find(text, "[\192-\255][\128-\191]*$")
    if at then
        local lead, have = text:byte(at), #text - at + 1
        local need = lead >= 240 and 4 or lead >= 224 and 3 or 2
        if have < need then
            text, rest = sub(text, 1, at - 1), sub(text, at)
        end
    end
    return unicode.chars(text), rest
end

local function make_trie(words)
    local root = { next = {} }
    for _, word in ipairs(words) do
        if type(word) ~= "string" or word == "" then
            error("moderation: a word must be a string that is not empty", 3)
        end
        local node = root
        for _, c in ipairs(unicode.chars(word)) do
            if not INVISIBLE[c] then
                local f = fold(c)
                node.next[f] = node.next[f] or { next = {} }
                node = node.next[f]
            end
        end
        if node == root then
            error("moderation: a word has only invisible characters", 3)
        end
        node.word = true
    end
    return root
end

local Filter = {}
Filter.__index = Filter

-- Looks for a word at chars[from]: the index of its last character, or nil;
-- "wait" if more text is needed to know.
function Filter:scan(chars, from, last)
    local n = #chars
    if INVISIBLE[chars[from]]
        or (self.whole and is_word_char(chars[from])
            and is_word_char(from > 1 and chars[from - 1] or self.before))
    then
        return nil
    end
    local node, i, best = self.root, from, nil
    while true do
        if i > n then
            return last and best or not last and "wait" or nil
        end
        local c = chars[i]
        if not INVISIBLE[c] then
            node = node.next[fold(c)]
            if not node then
                return best
            end
            if node.word then
                if not self.whole or not is_word_char(c) then
                    best = i
                elseif i == n then
                    best = last and i or best
                elseif not is_word_char(chars[i + 1]) then
                    best = i
                end
            end
            if next(node.next) == nil and (not self.whole or i < n or last)
            then
                return best
            end
        end
        i = i + 1
    end
end

function Filter:replacement(word)
    local replace = self.replace
    if type(replace) == "function" then
        return tostring(replace(word) or "")
    end
    return replace
end

--- Takes the next piece: text to send, and the first hit or nil.
function Filter:feed(piece, last)
    if self.ended then
        return "", nil
    end
    local chars, rest = split_chars(self.held .. piece)
    if last and rest ~= "" then
        chars[#chars + 1] = rest
        rest = ""
    end
    local out, i, n, hit = {}, 1, #chars, nil
    while i <= n do
        local stop = self:scan(chars, i, last)
        if stop == "wait" then
            break
        elseif stop then
            local word = concat(chars, "", i, stop)
            hit = hit or word
            self.hits = self.hits + 1
            if self.stop then
                self.ended = true
                return concat(out), hit
            end
            out[#out + 1] = self:replacement(word)
            i = stop + 1
        else
            out[#out + 1] = chars[i]
            i = i + 1
        end
    end
    self.before = i > 1 and chars[i - 1] or self.before
    self.held = concat(chars, "", i) .. rest
    return concat(out), hit
end

Filter.__call = Filter.feed

--- A new filter for one text; see the head of this file.
function moderation.new(options)
    local words = type(options) == "table" and options.words
    if type(words) ~= "table" or #words == 0 then
        error("moderation.new needs {words = {...}}", 2)
    end
    local replace = options.replace == nil and "***" or options.replace
    if type(replace) ~= "string" and type(replace) ~= "function" then
        error("moderation: replace must be a string or a function", 2)
    end
    return setmetatable({
        root = moderation.trie(words), replace = replace, hits = 0, held = "",
        whole = options.whole and true or false,
        stop = options.stop and true or false,
    }, Filter)
end

-- The trie of a list of words is made once: hooks pass the same literal list
-- at every request, so it is kept by its contents.
local tries, n_tries = {}, 0

function moderation.trie(words)
    local key = concat(words, "\0")
    local trie = tries[key]
    if not trie then
        trie = make_trie(words)
        if n_tries >= 64 then
            tries, n_tries = {}, 0
        end
        tries[key] = trie
        n_tries = n_tries + 1
    end
    return trie
end

return moderation
