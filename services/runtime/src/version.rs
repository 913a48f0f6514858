//! Which build runs: for `--version`, the build info metric, discovery and traces.

/// The release: what was given as `IM_BUILD_VERSION` when the program was compiled, otherwise as in `Cargo.toml`.
pub const VERSION: &str = match option_env!("IM_BUILD_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

/// The source commit, given as `IM_BUILD_COMMIT` when the program was compiled; `unknown` otherwise.
pub const COMMIT: &str = match option_env!("IM_BUILD_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// `release` or `debug`.
pub const PROFILE: &str = if cfg!(debug_assertions) {
    "debug"
} else {
    "release"
};

/// One line, as `--version` prints it after the program's name.
pub fn line() -> String {
    format!("{VERSION} (commit {COMMIT}, {PROFILE})")
}
