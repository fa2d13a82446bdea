/** Where things are. */

import { fileURLToPath } from "node:url";

/** The folder of this SDK; this file runs as `build/tests/support/places.js`. */
export const SDK = fileURLToPath(new URL("../../..", import.meta.url)).replace(/\/$/, "");
