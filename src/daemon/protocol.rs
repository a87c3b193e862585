//! What goes over the control socket: one JSON object a line, a request and then its reply.
//!
//! `{"version":1,"request":{"op":"status"}}` is answered by `{"version":1,"done":{...}}` or
//! `{"version":1,"failed":{"kind":...,"message":...,"hint":...}}`. The rows are also what the
//! command line's `--json` prints, so their fields are a stable interface: added to, never changed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Error;

/// Version of the protocol and of the JSON listings.
pub const VERSION: u32 = 1;
/// Longest line that either side reads: a listing of all of a volume's 2^21 snapshots fits.
pub const MAX_LINE_BYTES: u64 = 1 << 30;

/// A line from the client.
#[derive(Debug, Serialize, Deserialize)]
pub struct Envelope {
    /// [`VERSION`].
    pub version: u32,
    /// What is wanted.
    pub request: Request,
}

/// A line from the daemon.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The request was carried out.
    Done(Reply),
    /// The request failed and changed nothing, unless the message says so.
    Failed(Error),
}

/// [`Outcome`] with the version.
#[derive(Debug, Serialize, Deserialize)]
pub struct Answer {
    /// [`VERSION`].
    pub version: u32,
    /// How it went.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What a client may ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// Adds a mount; answered with [`Reply::Mounted`] when it is usable.
    Mount(MountRequest),
    /// Ends a mount; when it was the last, the reply comes after the pool is closed.
    Umount {
        /// The mount point.
        dir: WirePath,
    },
    /// Answered when the mount has ended, however it ended.
    WaitUnmounted {
        /// The mount point.
        dir: WirePath,
    },
    /// Mounts, space, checkpoint, background work.
    Status,
    /// Has another program serve the pool; the mounts stay. Answered before it has taken over.
    Upgrade {
        /// The program, absolute.
        program: WirePath,
    },
    /// Makes a volume.
    VolumeCreate {
        /// Its name.
        volume: String,
        /// Most bytes that it may refer to.
        quota_bytes: Option<u64>,
        /// Labels.
        labels: BTreeMap<String, String>,
    },
    /// Lists the volumes.
    VolumeList,
    /// Deletes a volume that is not mounted; its snapshots stay.
    VolumeDelete {
        /// Its name.
        volume: String,
    },
    /// Changes quota and labels.
    VolumeSet {
        /// Its name.
        volume: String,
        /// What to change.
        changes: VolumeChanges,
    },
    /// Makes a snapshot; durable when answered.
    SnapshotCreate {
        /// The volume.
        volume: String,
        /// The new name, or a template.
        name: String,
    },
    /// Lists a volume's snapshots by creation.
    SnapshotList {
        /// The volume.
        volume: String,
    },
    /// Describes one snapshot.
    SnapshotShow {
        /// The volume.
        volume: String,
        /// Its name.
        name: String,
    },
    /// Deletes a snapshot.
    SnapshotDelete {
        /// The volume.
        volume: String,
        /// Its name.
        name: String,
    },
    /// Makes a volume that begins as a snapshot.
    Clone {
        /// The snapshot's volume.
        volume: String,
        /// The snapshot.
        snapshot: String,
        /// The new volume.
        name: String,
    },
    /// Makes a volume that is not mounted what it was in a snapshot; answered with the snapshot of what it was
    /// until now.
    Restore {
        /// The volume.
        volume: String,
        /// The snapshot.
        snapshot: String,
    },
    /// Begins a scrub, or goes on with one that was stopped.
    ScrubStart,
    /// Tells of the scrub that runs, or of the last one.
    ScrubStatus,
    /// Stops the scrub that runs.
    ScrubCancel,
    /// Renames a snapshot.
    SnapshotRename {
        /// The volume.
        volume: String,
        /// Its name.
        from: String,
        /// The name it gets.
        to: String,
    },
}

impl Request {
    /// Returns whether it may be asked again when no answer came.
    pub fn changes_nothing(&self) -> bool {
        matches!(
            self,
            Request::Status
                | Request::ScrubStatus
                | Request::VolumeList
                | Request::SnapshotList { .. }
                | Request::SnapshotShow { .. }
        )
    }
}

/// What [`Request::VolumeSet`] changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeChanges {
    /// `Some(None)` takes the quota away.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "some_null")]
    pub quota_bytes: Option<Option<u64>>,
    /// Labels to set; `None` removes one.
    #[serde(default)]
    pub labels: BTreeMap<String, Option<String>>,
}

/// Keeps `Some(None)` apart from `None`: a field that is there and null.
mod some_null {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(
        value: &Option<Option<u64>>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        value.flatten().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Option<u64>>, D::Error> {
        Option::<u64>::deserialize(from).map(Some)
    }
}

/// A mount that is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRequest {
    /// The pool's directory, absolute.
    pub pool: WirePath,
    /// The volume.
    pub volume: String,
    /// The mount point, absolute.
    pub dir: WirePath,
    /// Make pool and volume if they are not there.
    pub create: bool,
    /// The `-o` options.
    pub options: MountSettings,
}

/// The `-o` options of a mount, parsed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSettings {
    /// `ro`
    pub read_only: bool,
    /// `snapshot=NAME`: this snapshot by itself.
    pub snapshot: Option<String>,
    /// `snapdir=`
    pub snapdir: SnapdirMode,
    /// `snapdir_name=`
    pub snapdir_name: String,
    /// `allow_other`, `no_allow_other`; `None`: as befits the user.
    pub allow_other: Option<bool>,
    /// `noatime`; otherwise relatime.
    pub noatime: bool,
    /// `nodev`
    pub nodev: bool,
    /// `nosuid`
    pub nosuid: bool,
    /// `noexec`
    pub noexec: bool,
    /// SELinux contexts, as `context=...` and its relatives, for the kernel.
    pub contexts: Vec<String>,
    /// `cache_size=`, for the pool.
    pub cache_bytes: Option<u64>,
    /// `commit=`, for the pool.
    pub commit_seconds: Option<u64>,
}

impl Default for MountSettings {
    fn default() -> Self {
        MountSettings {
            read_only: false,
            snapshot: None,
            snapdir: SnapdirMode::Hidden,
            snapdir_name: ".snapshots".to_owned(),
            allow_other: None,
            noatime: false,
            nodev: false,
            nosuid: false,
            noexec: false,
            contexts: Vec::new(),
            cache_bytes: None,
            commit_seconds: None,
        }
    }
}

/// How `.snapshots` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapdirMode {
    /// Found by name, not listed.
    Hidden,
    /// Listed.
    Visible,
    /// Not there.
    Disabled,
}

/// What a request that was carried out is answered with.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Reply {
    /// Nothing to tell.
    Ok,
    /// A mount is usable.
    Mounted {
        /// What the user should know: settings that were ignored.
        notes: Vec<String>,
    },
    /// A mount has ended.
    Unmounted {
        /// The pool was closed with it.
        closed: bool,
    },
    /// To [`Request::Status`].
    Status(PoolStatusRow),
    /// To [`Request::VolumeList`].
    Volumes {
        /// By name.
        volumes: Vec<VolumeRow>,
    },
    /// To [`Request::SnapshotList`].
    Snapshots(SnapshotList),
    /// To [`Request::ScrubStart`], [`Request::ScrubStatus`] and [`Request::ScrubCancel`].
    Scrub(ScrubRow),
    /// To [`Request::SnapshotCreate`], [`Request::SnapshotShow`] and [`Request::Restore`].
    Snapshot(SnapshotRow),
}

/// How a scrub stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScrubProgress {
    /// There was none yet.
    #[default]
    None,
    /// It runs.
    Running,
    /// It was stopped, and the next one goes on with it.
    Stopped,
    /// Everything has been read.
    Done,
}

/// A scrub.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ScrubRow {
    /// How it stands.
    pub progress: ScrubProgress,
    /// When it began, RFC 3339.
    pub begun: Option<String>,
    /// When it was done.
    pub ended: Option<String>,
    /// Nodes verified.
    pub nodes: u64,
    /// Data blocks verified.
    pub blocks: u64,
    /// Bytes of both.
    pub done_bytes: u64,
    /// About how many there are.
    pub total_bytes: u64,
    /// What is damaged, file by file; at most a thousand pieces.
    pub damage: Vec<ScrubDamageRow>,
    /// Pieces that are not listed.
    pub more_damage: u64,
}

/// Something damaged that a scrub has found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ScrubDamageRow {
    /// The volume; none for the pool's own records.
    pub volume: Option<String>,
    /// The snapshot; none in the live state.
    pub snapshot: Option<String>,
    /// Path of the file, or of the first one whose records are damaged.
    pub path: Option<String>,
    /// Its inode.
    pub inode: u64,
    /// First damaged block of 4 KiB in the file; none where records are damaged.
    pub first_block: Option<u64>,
    /// How many.
    pub blocks: Option<u64>,
    /// What is wrong.
    pub cause: String,
}

/// A pool and what its daemon does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PoolStatusRow {
    /// The pool's directory.
    pub pool: WirePath,
    /// Its UUID, in hexadecimal with dashes.
    pub uuid: String,
    /// The process that serves it; none if the pool was opened just to answer.
    pub daemon: Option<DaemonRow>,
    /// The mounts, by mount point.
    pub mounts: Vec<MountRow>,
    /// Bytes that files can take at most.
    pub total_bytes: u64,
    /// Bytes in use, snapshots included.
    pub used_bytes: u64,
    /// Bytes free for new data.
    pub free_bytes: u64,
    /// Bytes that the next checkpoint gives back.
    pub held_bytes: u64,
    /// Pieces of background reclaim still to do.
    pub reclaim_pending: u64,
    /// Journal in use since the last checkpoint.
    pub journal_used_bytes: u64,
    /// Size of the journal.
    pub journal_capacity_bytes: u64,
    /// Changed tree nodes in memory.
    pub dirty_bytes: u64,
    /// The epoch: rises with each snapshot.
    pub epoch: u64,
    /// Number of the last durable checkpoint.
    pub checkpoint: u64,
    /// Why the pool takes no writes, if so.
    pub read_only: Option<String>,
}

/// A pool's daemon.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DaemonRow {
    /// Its process id.
    pub pid: u32,
    /// Its version of AmberFS.
    pub version: String,
    /// Since when, RFC 3339.
    pub started: String,
    /// Daemons of this pool that have died before it, their mounts taken over by the next.
    #[serde(default)]
    pub deaths: u64,
}

/// A mount.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MountRow {
    /// The mount point.
    pub dir: WirePath,
    /// The volume.
    pub volume: String,
    /// The snapshot, if it is mounted by itself.
    pub snapshot: Option<String>,
    /// Mounted `ro`, or a snapshot.
    pub read_only: bool,
    /// Since when, RFC 3339.
    pub since: String,
}

/// A volume.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VolumeRow {
    /// Its name.
    pub name: String,
    /// When it was made, RFC 3339.
    pub created: String,
    /// Bytes that its files refer to, shared ones included.
    pub referenced_bytes: u64,
    /// Bytes that nothing else refers to.
    pub exclusive_bytes: u64,
    /// Number of its snapshots.
    pub snapshots: u64,
    /// Most bytes that it may refer to.
    pub quota_bytes: Option<u64>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// A volume with its snapshots.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SnapshotList {
    /// The volume; none when it was deleted and its snapshots are left.
    pub volume: Option<VolumeRow>,
    /// By creation.
    pub snapshots: Vec<SnapshotRow>,
}

/// A snapshot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SnapshotRow {
    /// Its name.
    pub name: String,
    /// Its number in the volume, never given again.
    pub number: u32,
    /// When it was made, RFC 3339.
    pub created: String,
    /// It is complete and durable, which it is from the moment it is listed.
    pub ready: bool,
    /// Bytes that its files refer to, shared ones included.
    pub referenced_bytes: u64,
    /// Bytes that deleting it gives back.
    pub exclusive_bytes: u64,
    /// Hash of its tree, once a checkpoint has written it.
    pub root: Option<String>,
    /// Its epoch.
    pub epoch: u64,
}

/// A path in JSON: a string, or its bytes where it is not UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "PathText", into = "PathText")]
pub struct WirePath(pub PathBuf);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum PathText {
    Text(String),
    Bytes { bytes: Vec<u8> },
}

impl From<PathText> for WirePath {
    fn from(text: PathText) -> Self {
        use std::os::unix::ffi::OsStringExt;
        WirePath(match text {
            PathText::Text(text) => text.into(),
            PathText::Bytes { bytes } => std::ffi::OsString::from_vec(bytes).into(),
        })
    }
}

impl From<WirePath> for PathText {
    fn from(path: WirePath) -> Self {
        use std::os::unix::ffi::OsStringExt;
        match path.0.into_os_string().into_string() {
            Ok(text) => PathText::Text(text),
            Err(other) => PathText::Bytes { bytes: other.into_vec() },
        }
    }
}

impl From<PathBuf> for WirePath {
    fn from(path: PathBuf) -> Self {
        WirePath(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::ErrorKind;

    fn round_trip(request: &Request) -> String {
        let text = serde_json::to_string(request).unwrap();
        assert_eq!(&serde_json::from_str::<Request>(&text).unwrap(), request);
        assert!(!text.contains('\n'));
        text
    }

    #[test]
    fn requests_keep_their_form() {
        assert_eq!(round_trip(&Request::Status), r#"{"op":"status"}"#);
        let text = round_trip(&Request::Umount { dir: PathBuf::from("/a b\n").into() });
        assert_eq!(text, r#"{"op":"umount","dir":"/a b\n"}"#);
        round_trip(&Request::Mount(MountRequest {
            pool: PathBuf::from("/p").into(),
            volume: "main".to_owned(),
            dir: PathBuf::from("/mnt").into(),
            create: true,
            options: MountSettings::default(),
        }));
    }

    #[test]
    fn a_path_that_is_not_utf8_survives() {
        use std::os::unix::ffi::OsStringExt;
        let dir = PathBuf::from(std::ffi::OsString::from_vec(b"/\xff:x".to_vec()));
        round_trip(&Request::WaitUnmounted { dir: dir.into() });
    }

    #[test]
    fn taking_a_quota_away_differs_from_leaving_it() {
        let set = |quota_bytes| Request::VolumeSet {
            volume: "v".to_owned(),
            changes: VolumeChanges { quota_bytes, labels: BTreeMap::new() },
        };
        assert!(round_trip(&set(Some(None))).contains("null"));
        assert!(!round_trip(&set(None)).contains("quota"));
        round_trip(&set(Some(Some(5))));
    }

    #[test]
    fn answers_carry_the_version() {
        let failed = Outcome::Failed(Error::new(ErrorKind::NotFound, "no"));
        let text = serde_json::to_string(&Answer { version: VERSION, outcome: failed }).unwrap();
        assert_eq!(text, r#"{"version":1,"failed":{"kind":"not_found","message":"no"}}"#);
        let answer: Answer = serde_json::from_str(&text).unwrap();
        assert!(
            matches!(answer.outcome, Outcome::Failed(error) if error.kind == ErrorKind::NotFound)
        );
        let done = Answer { version: VERSION, outcome: Outcome::Done(Reply::Ok) };
        let text = serde_json::to_string(&done).unwrap();
        assert_eq!(text, r#"{"version":1,"done":{"type":"ok"}}"#);
    }
}
