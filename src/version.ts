// The version of this package, in one place for code; a test compares it with package.json.

export const packageVersion = "0.1.0";
