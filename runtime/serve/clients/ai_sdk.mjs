// Vercel's AI SDK against `jamba serve`: ai_sdk.mjs http://HOST:PORT. The first failure ends it.

import assert from "node:assert/strict";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, jsonSchema, streamText, tool } from "ai";
import { z } from "zod";

const baseURL = `${process.argv[2]}/v1`;
const name = (await (await fetch(`${baseURL}/models`)).json()).data[0].id;
const provider = createOpenAICompatible({ name: "jamba", baseURL, includeUsage: true, supportsStructuredOutputs: true });
const model = provider(name);
const prompt = "Anna has a red kite. What does Anna have?";
const weather = tool({
  description: "The weather of a place.",
  inputSchema: jsonSchema({
    type: "object",
    properties: { place: { type: "string", maxLength: 12 } },
    required: ["place"],
    additionalProperties: false,
  }),
});

const checks = {
  async text() {
    const options = { model, prompt, seed: 7, maxOutputTokens: 20, maxRetries: 0 };
    const whole = await generateText(options);
    const stream = streamText(options);
    let text = "";
    for await (const part of stream.textStream) text += part;
    assert.equal(text, whole.text);
    assert.equal((await stream.usage).outputTokens, whole.usage.outputTokens);
    assert.equal(await stream.finishReason, whole.finishReason);
  },
  async calls() {
    const options = { model, prompt, tools: { weather }, toolChoice: "required", maxOutputTokens: 300, maxRetries: 0 };
    const whole = await generateText(options);
    assert.equal(whole.toolCalls[0].toolName, "weather");
    assert.equal(typeof whole.toolCalls[0].input.place, "string");
    assert.equal((await streamText(options).toolCalls)[0].toolName, "weather");
  },
  async objects() {
    const schema = z.object({ colour: z.enum(["red", "blue"]) });
    const { object } = await generateObject({ model, prompt, schema, maxOutputTokens: 80, maxRetries: 0 });
    assert.ok(["red", "blue"].includes(object.colour));
  },
  async errors() {
    const unknown = generateText({ model: provider("nobody"), prompt, maxRetries: 0 });
    await assert.rejects(unknown, (error) => error.statusCode === 404);
  },
};

for (const [check, run] of Object.entries(checks)) {
  await run();
  console.log(`AI SDK: ${check}: yes`);
}
