// OpenAI's JavaScript client against `jamba serve`: openai_js.mjs http://HOST:PORT. The first failure ends it.

import assert from "node:assert/strict";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "none", maxRetries: 0 });
const model = (await client.models.list()).data[0].id;
const messages = [{ role: "user", content: "Anna has a red kite. What does Anna have?" }];
const tools = [
  {
    type: "function",
    function: {
      name: "weather",
      parameters: {
        type: "object",
        properties: { place: { type: "string", maxLength: 12 } },
        required: ["place"],
        additionalProperties: false,
      },
    },
  },
];

const checks = {
  async chat() {
    const options = { model, messages, seed: 7, max_completion_tokens: 20 };
    const whole = await client.chat.completions.create(options);
    const stream = client.chat.completions.stream({ ...options, stream_options: { include_usage: true } });
    const streamed = await stream.finalChatCompletion();
    assert.equal(streamed.choices[0].message.content, whole.choices[0].message.content);
    assert.equal(streamed.choices[0].message.role, "assistant");
    assert.deepEqual(streamed.usage.completion_tokens, whole.usage.completion_tokens);
  },
  async calls() {
    const limits = { seed: 3, max_tokens: 300, parallel_tool_calls: false };
    const options = { model, messages, tools, tool_choice: "required", ...limits };
    const whole = await client.chat.completions.create(options);
    const streamed = await client.chat.completions.stream(options).finalChatCompletion();
    for (const { finish_reason, message } of [whole.choices[0], streamed.choices[0]]) {
      assert.equal(finish_reason, "tool_calls");
      assert.equal(message.tool_calls[0].function.name, "weather");
      assert.equal(typeof JSON.parse(message.tool_calls[0].function.arguments).place, "string");
    }
    assert.deepEqual(
      streamed.choices[0].message.tool_calls.map((call) => call.function.arguments),
      whole.choices[0].message.tool_calls.map((call) => call.function.arguments),
    );
  },
  async structured() {
    const response_format = zodResponseFormat(z.object({ colour: z.enum(["red", "blue"]) }), "answer");
    const answer = await client.chat.completions.parse({ model, messages, response_format, max_tokens: 80 });
    assert.ok(["red", "blue"].includes(answer.choices[0].message.parsed.colour));
  },
  async completions() {
    const options = { model, prompt: "Once upon a time", max_tokens: 8, temperature: 0 };
    const whole = await client.completions.create(options);
    let text = "";
    const stream = await client.completions.create({ ...options, stream: true });
    for await (const chunk of stream) text += chunk.choices[0].text;
    assert.equal(text, whole.choices[0].text);
  },
  async leaving() {
    const stream = await client.completions.create({ model, prompt: "Ben", max_tokens: 2000, stream: true });
    for await (const _ of stream) break;
    stream.controller.abort();
    await client.completions.create({ model, prompt: "Ben", max_tokens: 1 });
  },
  async errors() {
    await assert.rejects(client.chat.completions.create({ model: "nobody", messages }), (error) => {
      assert.ok(error instanceof OpenAI.NotFoundError && error.code === "model_not_found");
      return true;
    });
    await assert.rejects(client.chat.completions.create({ model, messages, top_p: 0 }), OpenAI.BadRequestError);
  },
};

for (const [name, check] of Object.entries(checks)) {
  await check();
  console.log(`openai, JavaScript: ${name}: yes`);
}
