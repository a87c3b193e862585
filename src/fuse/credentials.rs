//! What a calling process may do, where a request does not say.

/// Bit of CAP_SYS_ADMIN in a capability set.
const SYS_ADMIN: u64 = 1 << 21;

/// Whether the process has CAP_SYS_ADMIN. It waits for our reply, so it does not change meanwhile.
pub(crate) fn has_sys_admin(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    effective(&status).is_some_and(|set| set & SYS_ADMIN != 0)
}

/// The effective capabilities out of a `status` file.
fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_effective_set() {
        assert_eq!(effective("Name:\tx\nCapEff:\t0000000000200001\n"), Some(SYS_ADMIN | 1));
        assert_eq!(effective("Name:\tx\n"), None);
        assert!(!has_sys_admin(u32::MAX));
    }
}
