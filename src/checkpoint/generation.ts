// How a model wants to be asked, from the files beside its weights: generation_config.json (sampling, ends of text) and
// the chat template (chat_template.jinja, else tokenizer_config.json), in the forms that transformers writes. Templates
// are programs of strangers in a language that can only make text. Not here: sampling (infer/sampling.ts).

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { quote, RunError, UsageError } from "../errors.ts";
import type { GenerationDefaults } from "../infer/languageModel.ts";
import { isObject, parseStrictJson } from "./strictJson.ts";

export interface ChatMessage {
  readonly role: "system" | "user" | "assistant";
  readonly content: string;
}

/**
 * Reads generation_config.json; ends of text that it does not name are those of config.json, and what stands before a text
 * is named by tokenizer_config.json. @throws RunError for damage, UsageError for odd values.
 */
export function readGenerationDefaults(folder: string): GenerationDefaults {
  const path = join(folder, "generation_config.json");
  const stored = readObject(path) ?? {};
  const number = (key: string): number | undefined => {
    const value = stored[key] ?? undefined;
    if (value === undefined || typeof value === "number") return value as number | undefined;
    throw new UsageError(`${path}: ${key} must be a number, not ${quote(value)}`);
  };
  const eos = stored.eos_token_id ?? readObject(join(folder, "config.json"))?.eos_token_id ?? [];
  const eosIds: unknown[] = Array.isArray(eos) ? eos : [eos];
  if (!eosIds.every((id) => Number.isInteger(id) && (id as number) >= 0)) {
    throw new UsageError(
      `${path}: eos_token_id must be a token's number or a list of them, not ${quote(eos)}`,
    );
  }
  const tokens = readObject(join(folder, "tokenizer_config.json")) ?? {};
  // The order of lm-evaluation-harness's prefix_token_id.
  const start = tokenText(tokens.bos_token) || tokenText(tokens.eos_token);
  return {
    // Without sampling the other numbers mean nothing.
    temperature: stored.do_sample === false ? 0 : number("temperature"),
    topK: number("top_k"),
    topP: number("top_p"),
    eosIds: eosIds as number[],
    ...(start !== "" && { startToken: start }),
  };
}

/**
 * The text that asks a model to answer `messages`, by its own chat template.
 * @throws UsageError if it has none, or the template refuses these messages.
 */
export async function renderChat(folder: string, messages: readonly ChatMessage[]): Promise<string> {
  const config = readObject(join(folder, "tokenizer_config.json")) ?? {};
  const file = join(folder, "chat_template.jinja");
  const source = existsSync(file) ? readText(file) : templateOf(config.chat_template);
  if (source === undefined) {
    throw new UsageError(
      `${folder} has no chat template: leave out --chat to continue a text, or use a chat model`,
    );
  }
  const { Template } = await import("@huggingface/jinja");
  const tokens = Object.fromEntries(
    ["bos_token", "eos_token", "unk_token", "pad_token"].map((key) => [key, tokenText(config[key])]),
  );
  try {
    return new Template(source).render({
      ...tokens,
      messages,
      add_generation_prompt: true,
    });
  } catch (error) {
    const reason = quote((error as Error).message);
    throw new UsageError(`the chat template of ${folder} does not work (${reason}): leave out --chat`, {
      cause: error,
    });
  }
}

/** One template, or a list of named ones of which "default" counts. */
function templateOf(stored: unknown): string | undefined {
  if (typeof stored === "string") return stored;
  if (!Array.isArray(stored)) return undefined;
  const entry = stored.find((named) => isObject(named) && named.name === "default");
  return typeof entry?.template === "string" ? entry.template : undefined;
}

/** A special token is its text, or an object with it. */
function tokenText(stored: unknown): string {
  const text = isObject(stored) ? stored.content : stored;
  return typeof text === "string" ? text : "";
}

function readObject(path: string): Record<string, unknown> | undefined {
  if (!existsSync(path)) return undefined;
  const { value, problem = "is no JSON object" } = parseStrictJson(Buffer.from(readText(path)), 64);
  if (isObject(value)) return value;
  throw new RunError(`${path} ${problem}: restore the file or delete it`);
}

function readText(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    throw new RunError(
      `${path} cannot be read (${(error as NodeJS.ErrnoException).code}): restore the file or delete it`,
      {
        cause: error,
      },
    );
  }
}
