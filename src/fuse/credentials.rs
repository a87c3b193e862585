//! What a calling process may do, where a request does not say.
//!
//! The process must be waiting for our reply: then what /proc says of it does not change meanwhile, and reading
//! that takes spin locks alone. It also takes a reference of the process's memory, which is never the last one
//! of a process that waits; the last one would have to tear the memory down, waiting for I/O that is under way.

/// Bit of CAP_FOWNER in a capability set.
const FOWNER: u64 = 1 << 3;
/// Bit of CAP_FSETID.
const FSETID: u64 = 1 << 4;
/// Bit of CAP_SYS_ADMIN.
const SYS_ADMIN: u64 = 1 << 21;

/// Who a process acts as on files. The default is somebody who may nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Credentials {
    /// None for a process that cannot be looked at: one of another process id namespace.
    uid: Option<u32>,
    groups: Vec<u32>,
    capabilities: u64,
}

impl Credentials {
    /// Looks at a process, or a thread of one.
    pub(crate) fn of(pid: u32) -> Credentials {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let mut found = parse(&status);
        // Those of a user namespace below the first one say nothing about our files.
        let ids = std::fs::read_to_string(format!("/proc/{pid}/uid_map")).unwrap_or_default();
        if !maps_all(&ids) {
            found.capabilities = 0;
        }
        found
    }

    /// Somebody of whom no more is known than a group, and that nothing is allowed.
    pub(crate) fn member_of(gid: u32) -> Credentials {
        Credentials { groups: vec![gid], ..Credentials::default() }
    }

    /// Whether it has CAP_SYS_ADMIN.
    pub(crate) fn has_sys_admin(&self) -> bool {
        self.capabilities & SYS_ADMIN != 0
    }

    /// Whether set-user-id and set-group-id bits outlive what it changes (CAP_FSETID).
    pub(crate) fn keeps_bits(&self) -> bool {
        self.capabilities & FSETID != 0
    }

    /// Whether it counts as the owner of files of that user.
    pub(crate) fn owns(&self, uid: u32) -> bool {
        self.uid == Some(uid) || self.capabilities & FOWNER != 0
    }

    /// Whether it is a member of a group, or does not need to be for what concerns set-group-id bits.
    pub(crate) fn counts_as_member(&self, gid: u32) -> bool {
        self.keeps_bits() || self.groups.contains(&gid)
    }
}

/// Reads a `status` file.
fn parse(status: &str) -> Credentials {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    // Real, effective, saved, and that for files.
    let for_files = |name| field(name)?.split_whitespace().nth(3)?.parse::<u32>().ok();
    let supplementary = field("Groups:").unwrap_or_default().split_whitespace();
    let mut groups: Vec<u32> = supplementary.filter_map(|group| group.parse().ok()).collect();
    groups.extend(for_files("Gid:"));
    let effective = field("CapEff:").and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    Credentials { uid: for_files("Uid:"), groups, capabilities: effective.unwrap_or(0) }
}

/// Whether a `uid_map` is that of the first user namespace, seen from it.
fn maps_all(map: &str) -> bool {
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t9 10 \n\
        CapInh:\tffffffffffffffff\nCapEff:\t0000000000200008\n";

    #[test]
    fn reads_the_ids_for_files_and_the_effective_set() {
        let found = parse(STATUS);
        let expected =
            Credentials { uid: Some(4), groups: vec![9, 10, 8], capabilities: SYS_ADMIN | FOWNER };
        assert_eq!(found, expected);
        assert!(found.has_sys_admin() && !found.keeps_bits());
        assert!(found.owns(77), "by CAP_FOWNER");
        assert!(found.counts_as_member(8) && found.counts_as_member(9));
        assert!(!found.counts_as_member(5));
    }

    #[test]
    fn who_cannot_be_looked_at_may_nothing() {
        let nobody = Credentials::of(u32::MAX);
        assert_eq!(nobody, Credentials::default());
        assert!(!nobody.owns(0) && !nobody.counts_as_member(0) && !nobody.has_sys_admin());
        let member = Credentials::member_of(7);
        assert!(member.counts_as_member(7) && !member.counts_as_member(8) && !member.owns(0));
    }

    #[test]
    fn the_first_user_namespace_is_known_by_its_map() {
        assert!(maps_all("         0          0 4294967295\n"));
        assert!(!maps_all("         0       1000          1\n"));
        assert!(!maps_all("0 0 4294967295\n1 1 1\n") && !maps_all(""));
    }
}
