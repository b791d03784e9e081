#!/usr/bin/env luajit
-- The streaming word filter: the same result however the text is cut.
local tap = dofile "t/tap.lua"
local moderation = require "llm.moderation"

local function run(options, pieces)
    local filter, out, hits = moderation.new(options), {}, {}
    for i, piece in ipairs(pieces) do
        local text, hit = filter(piece, i == #pieces)
        out[i] = text
        hits[#hits + 1] = hit
    end
    return table.concat(out), table.concat(hits, ","), out
end

-- Pieces of s for the bits of mask: bit i set = cut after byte i + 1.
local function cut(s, mask)
    local pieces, start = {}, 1
    for i = 1, #s - 1 do
        if mask % 2 == 1 then
            pieces[#pieces + 1] = s:sub(start, i)
            start = i + 1
        end
        mask = math.floor(mask / 2)
    end
    pieces[#pieces + 1] = s:sub(start)
    return pieces
end

local WORDS = { words = { "bad", "Badger", "ü!", "evil one" } }
local WHOLE = { words = { "bad", "is" }, whole = true, replace = "-" }
local CASES = {
    { "plain", WORDS, "good", "good" },
    { "whole text", WORDS, "bad", "***" },
    { "case", WORDS, "a BaD b", "a *** b" },
    { "twice", WORDS, "badbad", "******" },
    { "longest", WORDS, "badgers", "***s" },
    { "almost longest", WORDS, "badge", "***ge" },
    { "overlap", WORDS, "babad", "ba***" },
    { "umlaut", WORDS, "xÜ!ü", "x***ü" },
    { "phrase", WORDS, "evil onE", "***" },
    { "phrase broken off", WORDS, "evil on", "evil on" },
    { "invisible", WORDS, "b\226\128\139a\194\173d", "***" },
    { "empty", WORDS, "", "" },
    { "part", WHOLE, "badly", "badly" },
    { "whole", WHOLE, "so bad is", "so - -" },
    { "whole at end", WHOLE, "this is", "this -" },
    { "punctuation", WHOLE, "bad, IS.", "-, -." },
    { "function", { words = { "bad" }, replace = function(w)
        return "<" .. #w .. ">"
    end }, "a bad", "a <3>" },
    { "stop", { words = { "bad" }, stop = true }, "ok bad x", "ok " },
    { "sigma", { words = { "ΟΔΟΣ" } }, "οδος", "***" },
}

for _, case in ipairs(CASES) do
    local name, options, text, want = unpack(case)
    local wrong, leaked
    for mask = 0, 2 ^ math.max(0, #text - 1) - 1 do
        local got, _, parts = run(options, cut(text, mask))
        wrong = wrong or got ~= want and got
        local sent = ""
        for _, part in ipairs(parts) do
            sent = sent .. part
            leaked = leaked or sent ~= want:sub(1, #sent)
        end
    end
    tap.is(wrong or want, want, name .. ": every split")
    tap.ok(not leaked, name .. ": nothing is sent too early")
end

-- a long text in random pieces, against plain replacement
math.randomseed(7)
local words, long, want = { "bad", "good ", "ba", "d", "x", "Üb" }, {}, nil
for i = 1, 2000 do
    long[i] = words[math.random(#words)]
end
long = table.concat(long)
want = long:gsub("bad", "#"):gsub("Üb", "##")
local wrong = 0
for _ = 1, 20 do
    local pieces, at = {}, 1
    while at <= #long do
        local n = math.random(0, 7)
        pieces[#pieces + 1] = long:sub(at, at + n - 1)
        at = at + n
    end
    local got = run({ words = { "bad", "üb" }, replace = function(w)
        return #w == 3 and w:lower() == "bad" and "#" or "##"
    end }, pieces)
    wrong = wrong + (got == want and 0 or 1)
end
tap.is(wrong, 0, "long text in random pieces")

local _, hits = run({ words = { "bad" } }, { "one Ba", "d two", " bad", "" })
tap.is(hits, "Bad,bad", "hits are reported as written")

local filter = moderation.new { words = { "bad" }, stop = true }
tap.is(select(2, filter("x bad y", false)), "bad", "stop reports the hit")
tap.is(filter("more", true), "", "nothing follows a stop")

tap.fails("words", "no words", moderation.new, {})
tap.fails("words", "empty list", moderation.new, { words = {} })
tap.fails("empty", "empty word", moderation.new, { words = { "" } })
tap.fails("replace", "bad replace", moderation.new,
          { words = { "a" }, replace = 1 })

tap.done_testing()
