/**
 * Direct routing by itself, for whatever takes a `fetch`.
 *
 * ```ts
 * import { directFetch } from "landfast/routing";
 *
 * const url = "https://cell.example";
 * const fetch = directFetch(url);
 * const headers = { Authorization: `Bearer ${apiKey}`, "Content-Type": "application/json" };
 *
 * const created = await fetch(`${url}/v1/instances?wait=60`, { method: "POST", headers, body: "{}" });
 * const { id } = await created.json();
 * await fetch(`${url}/v1/instances/${id}/processes`, { headers }); // goes to the instance, with the instance's token
 * ```
 *
 * What is learnt, when it is forgotten, when the control plane is asked instead, and what is sent again is written in
 * `sdk/cases`; every row there is a test here.
 *
 * @module
 */

export { cameBy, type DirectFetch, type DirectInit, type DirectOptions, directFetch } from "./direct.js";
export { DIRECT, DIRECT_VARIABLE } from "./paths.js";
export { ROUTES_MAX, type Route, RouteCache } from "./routes.js";
export type { Fetch } from "./wire.js";
