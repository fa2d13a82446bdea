/** A client of CDP that knows one thing: what an expression is worth in a new page. */

import { once } from "node:events";
import { WebSocket } from "ws";

interface Message {
  id?: number;
  result?: Record<string, unknown>;
}

/** What an expression is worth in a new page of the browser. */
export async function evaluate(url: string, expression: string): Promise<unknown> {
  const socket = new WebSocket(url);
  await once(socket, "open");
  let count = 0;
  const call = (method: string, params: object, sessionId?: unknown): Promise<Record<string, unknown>> => {
    count += 1;
    const id = count;
    socket.send(JSON.stringify({ id, method, params, sessionId }));
    return new Promise((resolve, reject) => {
      socket.on("message", (data) => {
        const message = JSON.parse(String(data)) as Message;
        if (message.id === id) resolve(message.result ?? {});
      });
      socket.on("close", (code) => reject(new Error(`closed with ${code}`)));
    });
  };
  try {
    const { targetId } = await call("Target.createTarget", { url: "about:blank" });
    const { sessionId } = await call("Target.attachToTarget", { targetId, flatten: true });
    const { result } = await call("Runtime.evaluate", { expression }, sessionId);
    return (result as { value: unknown }).value;
  } finally {
    socket.terminate();
  }
}
