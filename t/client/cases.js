// cases.js - what the JavaScript tests share. harness.py starts the server, runs a script with its URL as the argument
// and turns the lines "ok - name" and "not ok - name" into TAP.
'use strict';

const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');

const TOLERANCE = 2e-3;    // as in harness.py

exports.url = process.argv[2];

exports.run = async (cases) => {
    for (const [name, test] of Object.entries(cases)) {
        try {
            await test();
            console.log(`ok - ${name}`);
        } catch (e) {
            console.log(`not ok - ${name}`);
            console.log(e.stack);
        }
    }
};

// The cases of a checkpoint of t/fixtures/models, see SOURCE.md there.
exports.reference = (model) => JSON.parse(fs.readFileSync(path.join(__dirname, '../fixtures/models', model,
    'expected.json'), 'utf8')).cases;

exports.near = (got, want) => {
    assert.equal(got.length, want.length, 'length');
    got.forEach((value, i) => {
        assert.ok(want[i] === null ? value === null : Math.abs(value - want[i]) <= TOLERANCE,
            `[${i}]: got ${value}, want ${want[i]}`);
    });
};

exports.all = async (iterable) => {
    const items = [];
    for await (const item of iterable) {
        items.push(item);
    }
    return items;
};

// The error of this class that the promise ends with.
exports.rejects = async (kind, promise) => {
    let value;
    try {
        value = await promise;
    } catch (e) {
        assert.ok(e instanceof kind, `${e.constructor.name}: ${e.message}`);
        return e;
    }
    throw new assert.AssertionError({ message: `no ${kind.name}, but ${JSON.stringify(value)}` });
};
