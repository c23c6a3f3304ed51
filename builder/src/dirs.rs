//! Where the user's files lie (XDG Base Directory Specification).

use std::path::PathBuf;

fn base(variable: &str, below_home: &str) -> PathBuf {
    let set = std::env::var_os(variable).map(PathBuf::from).filter(|p| p.is_absolute());
    set.unwrap_or_else(|| {
        std::env::var_os("HOME").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from).join(below_home)
    })
}

/// `$XDG_CACHE_HOME`.
pub(crate) fn cache() -> PathBuf {
    base("XDG_CACHE_HOME", ".cache")
}

/// `$XDG_CONFIG_HOME`.
pub(crate) fn config() -> PathBuf {
    base("XDG_CONFIG_HOME", ".config")
}

/// `$XDG_STATE_HOME`.
pub(crate) fn state() -> PathBuf {
    base("XDG_STATE_HOME", ".local/state")
}
