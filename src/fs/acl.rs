//! POSIX access control lists: the attributes `system.posix_acl_access` and `system.posix_acl_default`.
//!
//! Their value is what Linux passes (`include/uapi/linux/posix_acl_xattr.h`): version 2 in four bytes, then
//! eight bytes an entry: tag, permissions, id. An access ACL that says no more than the permission bits
//! is not stored. The group bits of a mode are the mask where there is one.

use super::error::Error;
use super::transaction::Transaction;
use super::types::Caller;
use super::xattr;
use crate::format::{Decoder, Encoder, Inode, InodeFlags, InodeNo};

/// Name of the access ACL.
pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
/// Name of the default ACL.
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

const SETGID: u32 = super::inode::SETGID;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct AclEntry {
    tag: u16,
    perm: u16,
    id: u32,
}

/// A valid list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Acl(Vec<AclEntry>);

impl Acl {
    /// Decodes and checks a list; [`Error::Invalid`] for one that Linux would refuse. None if it is empty.
    pub(super) fn decode(value: &[u8]) -> Result<Option<Acl>, Error> {
        let mut d = Decoder::new("acl", value);
        let mut entries = Vec::with_capacity(value.len() / 8);
        let bad = |_| Error::Invalid;
        match d.u32("version").map_err(bad)? {
            VERSION => {}
            _ => return Err(Error::NotSupported),
        }
        while d.remaining() > 0 {
            let (tag, perm) = (d.u16("tag").map_err(bad)?, d.u16("perm").map_err(bad)?);
            entries.push(AclEntry { tag, perm, id: d.u32("id").map_err(bad)? });
        }
        if entries.is_empty() {
            return Ok(None);
        }
        let acl = Acl(entries);
        if acl.is_valid() { Ok(Some(acl)) } else { Err(Error::Invalid) }
    }

    /// Tags rise; each of the three base entries is there once; named ones need a mask.
    fn is_valid(&self) -> bool {
        let count = |tag| self.0.iter().filter(|entry| entry.tag == tag).count();
        let named = count(USER) + count(GROUP);
        let known = [USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER];
        self.0.windows(2).all(|pair| pair[0].tag <= pair[1].tag)
            && self.0.iter().all(|entry| known.contains(&entry.tag) && entry.perm <= 7)
            && [USER_OBJ, GROUP_OBJ, OTHER].iter().all(|tag| count(*tag) == 1)
            && count(MASK) <= 1
            && (named == 0 || count(MASK) == 1)
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        out.u32(VERSION);
        for entry in &self.0 {
            out.u16(entry.tag).u16(entry.perm).u32(entry.id);
        }
        out.0
    }

    fn perm(&self, tag: u16) -> Option<u32> {
        self.0.iter().find(|entry| entry.tag == tag).map(|entry| u32::from(entry.perm))
    }

    fn perm_mut(&mut self, tag: u16) -> Option<&mut u16> {
        self.0.iter_mut().find(|entry| entry.tag == tag).map(|entry| &mut entry.perm)
    }

    /// The tag whose entry the group bits of a mode show.
    fn group_tag(&self) -> u16 {
        if self.perm(MASK).is_some() { MASK } else { GROUP_OBJ }
    }

    /// Whether it says no more than permission bits can.
    fn is_minimal(&self) -> bool {
        self.0.len() == 3
    }

    /// The permission bits that show it.
    fn mode(&self) -> u32 {
        let perm = |tag| self.perm(tag).unwrap_or(0);
        perm(USER_OBJ) << 6 | perm(self.group_tag()) << 3 | perm(OTHER)
    }

    /// Takes over permission bits.
    fn set_mode(&mut self, mode: u32) {
        for (tag, shift) in [(USER_OBJ, 6), (self.group_tag(), 3), (OTHER, 0)] {
            if let Some(perm) = self.perm_mut(tag) {
                *perm = (mode >> shift & 7) as u16;
            }
        }
    }

    /// Cuts a new file's list and the mode that it is made with down to what both allow; returns the mode.
    fn restrict(&mut self, mode: u32) -> u32 {
        let both = mode & self.mode();
        self.set_mode(both);
        both
    }

    /// What the list lets a caller do (bits 4 read, 2 write, 1 execute) with a file of that owner and group.
    pub(super) fn allows(&self, caller: &Caller, uid: u32, gid: u32, want: u32) -> bool {
        if caller.uid == uid {
            return self.perm(USER_OBJ).is_some_and(|perm| perm & want == want);
        }
        let mask = self.perm(MASK).unwrap_or(7);
        let masked = |perm: u16| u32::from(perm) & mask & want == want;
        if let Some(entry) = self.0.iter().find(|e| e.tag == USER && e.id == caller.uid) {
            return masked(entry.perm);
        }
        let mut in_any = false;
        for entry in &self.0 {
            let matches = match entry.tag {
                GROUP_OBJ => caller.in_group(gid),
                GROUP => caller.in_group(entry.id),
                _ => false,
            };
            if matches && masked(entry.perm) {
                return true;
            }
            in_any |= matches;
        }
        !in_any && self.perm(OTHER).is_some_and(|perm| perm & want == want)
    }
}

/// Sets or removes the access ACL, and the permission bits with it.
pub(super) fn set_access(
    tx: &mut Transaction<'_>,
    ino: InodeNo,
    inode: &mut Inode,
    acl: Option<&Acl>,
    kill_sgid: bool,
) -> Result<(), Error> {
    if let Some(acl) = acl {
        inode.mode = inode.mode & !0o777 | acl.mode();
        if kill_sgid {
            inode.mode &= !SETGID;
        }
    }
    let stored = acl.filter(|acl| !acl.is_minimal()).map(Acl::to_bytes);
    xattr::store(tx, ino, inode, ACCESS, stored.as_deref())
}

/// Sets or removes the default ACL of a directory.
pub(super) fn set_default(
    tx: &mut Transaction<'_>,
    ino: InodeNo,
    inode: &mut Inode,
    acl: Option<&Acl>,
) -> Result<(), Error> {
    if !inode.is_dir() {
        return if acl.is_some() { Err(Error::AccessDenied) } else { Ok(()) };
    }
    let stored = acl.map(Acl::to_bytes);
    xattr::store(tx, ino, inode, DEFAULT, stored.as_deref())
}

/// Takes a file's changed permission bits over into its access ACL.
pub(super) fn change_mode(
    tx: &mut Transaction<'_>,
    ino: InodeNo,
    inode: &mut Inode,
) -> Result<(), Error> {
    let Some(value) = xattr::load(tx, &tx.reader(), ino, ACCESS)? else { return Ok(()) };
    let Some(mut acl) = stored(&value)? else { return Ok(()) };
    acl.set_mode(inode.mode);
    xattr::store(tx, ino, inode, ACCESS, Some(&acl.to_bytes()))
}

/// Gives a new file what its directory's default ACL says, in place of the umask.
pub(super) fn inherit(
    tx: &mut Transaction<'_>,
    dir: InodeNo,
    ino: InodeNo,
    inode: &mut Inode,
) -> Result<(), Error> {
    let Some(value) = xattr::load(tx, &tx.reader(), dir, DEFAULT)? else { return Ok(()) };
    let Some(default) = stored(&value)? else { return Ok(()) };
    let mut access = default.clone();
    inode.mode = inode.mode & !0o777 | access.restrict(inode.mode & 0o777);
    if !access.is_minimal() {
        xattr::store(tx, ino, inode, ACCESS, Some(&access.to_bytes()))?;
    }
    if inode.is_dir() {
        debug_assert!(!inode.flags.has(InodeFlags::DEFAULT_ACL));
        xattr::store(tx, ino, inode, DEFAULT, Some(&value))?;
    }
    Ok(())
}

/// Decodes a list that was stored: what is wrong with it is damage.
pub(super) fn stored(value: &[u8]) -> Result<Option<Acl>, Error> {
    Acl::decode(value).map_err(|_| Error::Io("a stored ACL can't be decoded".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Acl {
        Acl(entries
            .iter()
            .map(|(tag, perm, id)| AclEntry { tag: *tag, perm: *perm, id: *id })
            .collect())
    }

    const NONE: u32 = u32::MAX;

    fn extended() -> Acl {
        acl(&[
            (USER_OBJ, 7, NONE),
            (USER, 6, 100),
            (GROUP_OBJ, 5, NONE),
            (GROUP, 7, 200),
            (MASK, 6, NONE),
            (OTHER, 1, NONE),
        ])
    }

    #[test]
    fn a_list_decodes_to_itself_and_bad_ones_are_refused() {
        assert_eq!(Acl::decode(&extended().to_bytes()), Ok(Some(extended())));
        assert_eq!(Acl::decode(&2u32.to_le_bytes()), Ok(None));
        assert_eq!(Acl::decode(&3u32.to_le_bytes()), Err(Error::NotSupported));
        assert_eq!(Acl::decode(&extended().to_bytes()[..13]), Err(Error::Invalid));
        for bad in [
            &[(USER_OBJ, 7, NONE), (OTHER, 1, NONE)][..],
            &[(USER_OBJ, 7, NONE), (USER, 7, 1), (GROUP_OBJ, 7, NONE), (OTHER, 1, NONE)],
            &[(GROUP_OBJ, 7, NONE), (USER_OBJ, 7, NONE), (OTHER, 1, NONE)],
            &[(USER_OBJ, 8, NONE), (GROUP_OBJ, 7, NONE), (OTHER, 1, NONE)],
            &[(USER_OBJ, 7, NONE), (GROUP_OBJ, 7, NONE), (OTHER, 1, NONE), (64, 1, NONE)],
        ] {
            assert_eq!(Acl::decode(&acl(bad).to_bytes()), Err(Error::Invalid), "{bad:?}");
        }
    }

    #[test]
    fn the_mask_is_what_the_group_bits_show_and_set() {
        let mut list = extended();
        assert_eq!(list.mode(), 0o761);
        list.set_mode(0o640);
        assert_eq!((list.perm(MASK), list.perm(GROUP_OBJ)), (Some(4), Some(5)));
        let mut plain = acl(&[(USER_OBJ, 7, NONE), (GROUP_OBJ, 5, NONE), (OTHER, 5, NONE)]);
        assert_eq!(plain.restrict(0o666), 0o644);
        assert_eq!(plain.mode(), 0o644);
    }

    #[test]
    fn access_follows_the_order_of_posix() {
        let list = extended();
        let who = |uid, gid| Caller { uid, gid, ..Caller::default() };
        let writes = |caller: &Caller| list.allows(caller, 1, 2, 2);
        assert!(writes(&who(1, 9)), "the owner");
        assert!(writes(&who(100, 9)), "a named user");
        assert!(!list.allows(&who(100, 200), 1, 2, 1), "the mask takes from a named user");
        assert!(!writes(&who(50, 2)), "the file's group may not");
        assert!(writes(&who(50, 200)), "a named group may");
        assert!(
            !writes(&who(50, 9)) && list.allows(&who(50, 9), 1, 2, 1),
            "others may only execute"
        );
        let both = Caller { groups: vec![200], ..who(50, 2) };
        assert!(writes(&both), "one group that may is enough");
    }
}
