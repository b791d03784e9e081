// inference.js - Hugging Face's JavaScript client against the server of javascript.t.
'use strict';

const assert = require('node:assert/strict');
const { InferenceClient, InferenceClientProviderApiError } = require('@huggingface/inference');
const { all, near, reference, rejects, run, url } = require('./cases.js');

const [FIRST] = reference('smollm2');
const { ids, logprobs, text } = FIRST.greedy;
const client = new InferenceClient('unused').endpoint(url);
const plain = new InferenceClient('unused').endpoint(`${url}/plain`);
const messages = [{ role: 'user', content: FIRST.prompt }];
const parameters = { max_new_tokens: ids.length, do_sample: false };

run({
    'inference: textGeneration': async () => {
        const out = await client.textGeneration({ inputs: FIRST.prompt, parameters });
        assert.equal(out.generated_text, text);
    },
    'inference: textGeneration, parameters': async () => {
        const stop = text.slice(3, 6);
        const out = await client.textGeneration({ inputs: FIRST.prompt, parameters: { ...parameters, stop: [stop] } });
        assert.equal(out.generated_text, text.slice(0, 3));
        const two = await Promise.all([7, 7].map((seed) => client.textGeneration(
            { inputs: FIRST.prompt, parameters: { ...parameters, do_sample: true, seed } })));
        assert.equal(two[0].generated_text, two[1].generated_text);
    },
    'inference: textGenerationStream': async () => {
        const events = await all(client.textGenerationStream({ inputs: FIRST.prompt, parameters }));
        assert.equal(events.map((e) => e.token.text).join(''), text);
        assert.equal(events.findLast((e) => e.generated_text).generated_text, text);
    },
    'inference: chatCompletion': async () => {
        const out = await plain.chatCompletion({ messages, max_tokens: ids.length, temperature: 0, logprobs: true });
        assert.equal(out.choices[0].message.content, text);
        assert.equal(out.choices[0].finish_reason, 'length');
        near(out.choices[0].logprobs.content.map((t) => t.logprob), logprobs);
    },
    'inference: chatCompletionStream': async () => {
        const chunks = await all(plain.chatCompletionStream({ messages, max_tokens: ids.length, temperature: 0 }));
        assert.equal(chunks.map((c) => c.choices[0].delta.content).join(''), text);
        assert.equal(chunks.at(-1).choices[0].finish_reason, 'length');
    },
    'inference: grammar and response_format': async () => {
        for (const seed of [1, 2, 3]) {
            const out = await client.textGeneration({ inputs: 'A', parameters: {
                max_new_tokens: 60, seed, do_sample: true, grammar: { type: 'regex', value: '[a-f]{3}-\\d{2}' } } });
            assert.match(out.generated_text, /^[a-f]{3}-\d{2}$/);
            const chat = await client.chatCompletion({ messages, max_tokens: 100, seed, response_format: {
                type: 'json_schema', json_schema: { name: 'n', schema: { enum: ['yes', 'no'] } } } });
            assert.ok(['"yes"', '"no"'].includes(chat.choices[0].message.content));
        }
    },
    'inference: tools, streamed and not': async () => {
        const tools = [{ type: 'function', function: { name: 'pick', parameters: {
            type: 'object', properties: { n: { type: 'integer', minimum: 0, maximum: 9 } }, required: ['n'] } } }];
        const args = { messages, max_tokens: 300, seed: 1, tools, tool_choice: 'required', parallel_tool_calls: false };
        const { message } = (await client.chatCompletion(args)).choices[0];
        assert.equal(message.tool_calls[0].function.name, 'pick');
        const { n } = JSON.parse(message.tool_calls[0].function.arguments);
        assert.ok(Number.isInteger(n) && n >= 0 && n <= 9);
        const chunks = await all(client.chatCompletionStream(args));
        assert.equal(chunks.flatMap((c) => c.choices[0].delta.tool_calls ?? []).map((c) => c.function.arguments).join(''),
            message.tool_calls[0].function.arguments);
    },
    'inference: errors': async () => {
        const e = await rejects(InferenceClientProviderApiError, plain.chatCompletion({ messages, temperature: -1 }));
        assert.equal(e.httpResponse.status, 422);
        assert.match(JSON.stringify(e.httpResponse.body), /`temperature` must be/);
        const f = await rejects(InferenceClientProviderApiError,
            all(client.textGenerationStream({ inputs: FIRST.prompt, parameters: { top_p: 7 } })));
        assert.equal(f.httpResponse.status, 422);
    },
});
