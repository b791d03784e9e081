// openai.js - OpenAI's JavaScript client against the server of javascript.t.
'use strict';

const assert = require('node:assert/strict');
const OpenAI = require('openai');
const { zodFunction, zodResponseFormat } = require('openai/helpers/zod');
const { z } = require('zod');
const { all, near, reference, rejects, run, url } = require('./cases.js');

const [FIRST] = reference('smollm2');
const { ids, logprobs, text } = FIRST.greedy;
const client = (path = '', more = {}) => new OpenAI({ baseURL: `${url}${path}/v1`, apiKey: 'unused', ...more });
const plain = client('/plain');
const messages = [{ role: 'user', content: FIRST.prompt }];
const greedy = { model: 'm', max_tokens: ids.length, temperature: 0 };

const Weather = z.object({ city: z.enum(['Rome', 'Oslo']), days: z.number().int().min(1).max(5) });

run({
    'openai: completions, text and token ids': async () => {
        for (const prompt of [FIRST.prompt, FIRST.input_ids]) {
            const out = await client().completions.create({ ...greedy, prompt });
            assert.equal(out.choices[0].text, text);
            assert.equal(out.choices[0].finish_reason, 'length');
            assert.equal(out.usage.prompt_tokens, FIRST.input_ids.length);
        }
    },
    'openai: completions with echo and log-probabilities': async () => {
        const out = await client().completions.create({ ...greedy, prompt: FIRST.prompt, echo: true, logprobs: 1 });
        near(out.choices[0].logprobs.token_logprobs, [...FIRST.prompt_logprobs, ...logprobs]);
    },
    'openai: completions, a stream': async () => {
        const chunks = await all(await client().completions.create({ ...greedy, prompt: FIRST.prompt, stream: true }));
        assert.equal(chunks.map((c) => c.choices[0].text).join(''), text);
        assert.equal(chunks.at(-1).choices[0].finish_reason, 'length');
    },
    'openai: chat': async () => {
        const out = await plain.chat.completions.create({ ...greedy, messages, logprobs: true, top_logprobs: 2 });
        assert.deepEqual(out.choices[0].message, { role: 'assistant', content: text });
        near(out.choices[0].logprobs.content.map((t) => t.logprob), logprobs);
        assert.equal(out.usage.completion_tokens, ids.length);
    },
    'openai: chat, a stream with usage': async () => {
        const chunks = await all(await plain.chat.completions.create(
            { ...greedy, messages, stream: true, stream_options: { include_usage: true } }));
        const usage = chunks.pop();
        assert.deepEqual(usage.choices, []);
        assert.equal(usage.usage.completion_tokens, ids.length);
        assert.equal(chunks.map((c) => c.choices[0].delta.content).join(''), text);
        assert.equal(chunks.at(-1).choices[0].finish_reason, 'length');
    },
    'openai: chat, the helper .stream()': async () => {
        const stream = plain.chat.completions.stream({ ...greedy, messages });
        let seen = '';
        stream.on('content', (delta) => { seen += delta; });
        const final = await stream.finalChatCompletion();
        assert.equal(seen, text);
        assert.equal(final.choices[0].message.content, text);
        assert.equal(final.choices[0].message.role, 'assistant');
    },
    'openai: chat, n choices': async () => {
        const out = await plain.chat.completions.create({ ...greedy, messages, temperature: 1, n: 3, seed: 3 });
        const last = await plain.chat.completions.create({ ...greedy, messages, temperature: 1, seed: 5 });
        assert.equal(out.choices.length, 3);
        assert.equal(out.choices[2].message.content, last.choices[0].message.content);
    },
    'openai: a stream that is aborted': async () => {
        const stream = await client('/slow').chat.completions.create({ ...greedy, messages, stream: true });
        for await (const chunk of stream) {
            assert.equal(chunk.choices[0].delta.role, 'assistant');
            stream.controller.abort();
            break;
        }
    },
    'openai: chat, parse() with a zod schema': async () => {
        for (const seed of [1, 2, 3]) {
            const out = await client().chat.completions.parse(
                { model: 'm', messages, max_tokens: 300, seed, response_format: zodResponseFormat(Weather, 'weather') });
            assert.equal(out.choices[0].finish_reason, 'stop');
            Weather.parse(out.choices[0].message.parsed);
        }
    },
    'openai: chat, tools, streamed and not': async () => {
        const tools = [zodFunction({ name: 'weather', parameters: Weather })];
        for (const seed of [1, 2, 3]) {
            const args = { model: 'm', messages, max_tokens: 300, seed, tools, tool_choice: 'required', parallel_tool_calls: false };
            const out = await client().chat.completions.parse(args);
            const [call] = out.choices[0].message.tool_calls;
            assert.equal(out.choices[0].finish_reason, 'tool_calls');
            Weather.parse(call.function.parsed_arguments);
            const final = await client().chat.completions.stream(args).finalChatCompletion();
            assert.equal(final.choices[0].message.tool_calls[0].function.arguments, call.function.arguments);
        }
    },
    'openai: responses and embeddings': async () => {
        const out = await plain.responses.create(
            { model: 'm', input: FIRST.prompt, temperature: 0, max_output_tokens: ids.length });
        assert.equal(out.output_text, text);
        const base64 = await client().embeddings.create({ model: 'm', input: FIRST.prompt });
        const float = await client().embeddings.create({ model: 'm', input: FIRST.prompt, encoding_format: 'float' });
        near(base64.data[0].embedding, float.data[0].embedding);
    },
    'openai: errors': async () => {
        for (const stream of [false, true]) {
            const e = await rejects(OpenAI.UnprocessableEntityError,
                plain.chat.completions.create({ ...greedy, messages, temperature: -1, stream }));
            assert.equal(e.status, 422);
            assert.equal(e.type, 'invalid_request_error');
            assert.match(e.message, /`temperature`/);
            assert.ok(e.requestID);
        }
        const e = await rejects(OpenAI.UnprocessableEntityError,
            client().completions.create({ ...greedy, prompt: 'word '.repeat(1000) }));
        assert.equal(e.code, 'context_length_exceeded');
        await rejects(OpenAI.NotFoundError, client().models.retrieve('no-such-model'));
    },
    'openai: models': async () => {
        assert.deepEqual((await all(client().models.list())).map((m) => m.id), ['m']);
        assert.equal((await client().models.retrieve('m')).object, 'model');
    },
});
