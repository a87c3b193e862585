//! Scrubs as the control socket tells of them, and the file that a scrub can go on from.
//!
//! The file `scrub` in the pool's directory holds the state of the last scrub, one JSON object, replaced whole
//! every few seconds and at its end. It lies beside the pool's files and not in them, because it says nothing
//! that the pool needs: one that is missing, old or damaged makes the next scrub begin at the beginning. It
//! is not synced, for the same reason.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::device::open_regular;
use crate::format::{Epoch, InodeNo, Key, MemberId, Timestamp, VolumeId};
use crate::fs::path_of_damage;
use crate::pool::{Pool, ScrubDamage, ScrubHooks, ScrubPhase, ScrubPosition, ScrubState};

use super::protocol::{ScrubDamageRow, ScrubProgress, ScrubRow, VERSION};
use super::service::rfc3339;
use super::{Result, protocol::Reply};

/// Name of the file in the pool's directory.
const FILE: &str = "scrub";
/// More than the longest of ours: a thousand damaged pieces are told, with a few kilobytes each.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// What the file holds.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    version: u32,
    /// Names the pool, so that a directory that was copied over does not mislead.
    uuid: [u8; 16],
    phase: u8,
    epoch: u64,
    number: u64,
    /// A 128-bit number in hexadecimal.
    cursor: String,
    until: u64,
    begun: (i64, u32),
    ended: Option<(i64, u32)>,
    nodes: u64,
    blocks: u64,
    total_bytes: u64,
    damage: Vec<SavedDamage>,
    more_damage: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedDamage {
    member: Option<u64>,
    volume: Option<u64>,
    volume_name: String,
    snapshot: Option<String>,
    inode: u64,
    path: Option<String>,
    blocks: Option<(u64, u64)>,
    what: String,
}

const PHASES: [ScrubPhase; 5] = [
    ScrubPhase::Checkpoint,
    ScrubPhase::Catalog,
    ScrubPhase::Snapshots,
    ScrubPhase::Heads,
    ScrubPhase::Done,
];

fn pair(time: Timestamp) -> (i64, u32) {
    (time.sec, time.nsec)
}

fn time((sec, nsec): (i64, u32)) -> Timestamp {
    Timestamp { sec, nsec }
}

impl Saved {
    fn of(state: &ScrubState, uuid: [u8; 16]) -> Option<Saved> {
        let at = state.position?;
        let phase = PHASES.iter().position(|phase| *phase == at.phase)?;
        let damage = state.damage.iter().map(|piece| SavedDamage {
            member: piece.member.map(|member| member.0),
            volume: piece.volume.map(|volume| volume.0),
            volume_name: piece.volume_name.clone(),
            snapshot: piece.snapshot.clone(),
            inode: piece.inode.0,
            path: piece.path.clone(),
            blocks: piece.blocks,
            what: piece.what.clone(),
        });
        Some(Saved {
            version: VERSION,
            uuid,
            phase: u8::try_from(phase).ok()?,
            epoch: at.epoch.0,
            number: at.number,
            cursor: format!("{:x}", at.cursor.0),
            until: at.until.0,
            begun: pair(state.begun),
            ended: state.ended.map(pair),
            nodes: state.nodes,
            blocks: state.blocks,
            total_bytes: state.total_bytes,
            damage: damage.collect(),
            more_damage: state.more_damage,
        })
    }

    fn state(self) -> Option<ScrubState> {
        let position = ScrubPosition {
            phase: *PHASES.get(usize::from(self.phase))?,
            epoch: Epoch(self.epoch),
            number: self.number,
            cursor: Key(u128::from_str_radix(&self.cursor, 16).ok()?),
            until: Epoch(self.until),
        };
        let damage = self.damage.into_iter().map(|piece| ScrubDamage {
            member: piece.member.map(MemberId),
            volume: piece.volume.map(VolumeId),
            volume_name: piece.volume_name,
            snapshot: piece.snapshot,
            inode: InodeNo(piece.inode),
            path: piece.path,
            blocks: piece.blocks,
            what: piece.what,
        });
        Some(ScrubState {
            position: Some(position),
            running: false,
            begun: time(self.begun),
            ended: self.ended.map(time),
            nodes: self.nodes,
            blocks: self.blocks,
            total_bytes: self.total_bytes,
            damage: damage.collect(),
            more_damage: self.more_damage,
        })
    }
}

/// Reads the file; none when there is none of this pool that can be gone on from.
fn load(pool: &Pool, path: &Path) -> Option<ScrubState> {
    let file = open_regular(OpenOptions::new().read(true), &path.join(FILE)).ok()?;
    let mut text = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut text).ok()?;
    let saved: Saved = serde_json::from_slice(&text).ok()?;
    let ours = saved.version == VERSION && saved.uuid == pool.status().uuid;
    if ours { saved.state() } else { None }
}

/// Writes a file that takes the place of whatever has its name.
fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    File::create_new(path)?.write_all(bytes)
}

fn hooks(pool: &Pool, path: &Path) -> ScrubHooks {
    let (uuid, path): ([u8; 16], PathBuf) = (pool.status().uuid, path.to_owned());
    let save = Box::new(move |state: &ScrubState| {
        let saved = Saved::of(state, uuid).and_then(|saved| serde_json::to_vec(&saved).ok());
        let Some(text) = saved else { return };
        let new = path.join(format!("{FILE}.new"));
        let written = write_new(&new, &text).and_then(|()| fs::rename(&new, path.join(FILE)));
        if let Err(error) = written {
            tracing::warn!("a scrub's position is not kept: {error}");
        }
    });
    ScrubHooks { save, path: path_of_damage }
}

/// Begins a scrub, or goes on with one that was not finished. Without a daemon it is done when this returns.
pub(super) fn start(pool: &Arc<Pool>, path: &Path, daemon: bool) -> Result<Reply> {
    let (saved, hooks) = (load(pool, path), hooks(pool, path));
    if daemon {
        pool.start_scrub(saved, hooks)?;
    } else {
        pool.run_scrub(saved, &hooks);
    }
    Ok(status(pool, path))
}

/// Stops a scrub; the next one goes on from there.
pub(super) fn cancel(pool: &Arc<Pool>, path: &Path) -> Reply {
    pool.cancel_scrub();
    status(pool, path)
}

/// The scrub that runs, or the last one.
pub(super) fn status(pool: &Arc<Pool>, path: &Path) -> Reply {
    let state = pool.scrub_state();
    let state = if state.position.is_some() { Some(state) } else { load(pool, path) };
    Reply::Scrub(state.map_or_else(ScrubRow::default, |state| row(&state)))
}

fn row(state: &ScrubState) -> ScrubRow {
    let progress = match state.running {
        true => ScrubProgress::Running,
        false if state.is_done() => ScrubProgress::Done,
        false => ScrubProgress::Stopped,
    };
    let damage = state.damage.iter().map(|piece| ScrubDamageRow {
        volume: piece.volume.map(|_| piece.volume_name.clone()),
        snapshot: piece.snapshot.clone(),
        path: piece.path.clone(),
        inode: piece.inode.0,
        first_block: piece.blocks.map(|(first, _)| first),
        blocks: piece.blocks.map(|(_, len)| len),
        cause: piece.what.clone(),
    });
    ScrubRow {
        progress,
        begun: Some(rfc3339(state.begun)),
        ended: state.ended.map(rfc3339),
        nodes: state.nodes,
        blocks: state.blocks,
        done_bytes: state.done_bytes(),
        total_bytes: state.total_bytes,
        damage: damage.collect(),
        more_damage: state.more_damage,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_comes_back_from_its_file() {
        let position = ScrubPosition {
            phase: ScrubPhase::Heads,
            epoch: Epoch(3),
            number: 4,
            cursor: Key(u128::MAX - 5),
            until: Epoch(6),
        };
        let piece = ScrubDamage {
            member: Some(MemberId(7)),
            volume: Some(VolumeId(8)),
            volume_name: "main".into(),
            snapshot: Some("monday".into()),
            inode: InodeNo(9),
            path: Some("/dir/file".into()),
            blocks: Some((10, 11)),
            what: "broken".into(),
        };
        let state = ScrubState {
            position: Some(position),
            nodes: 12,
            blocks: 13,
            total_bytes: 14,
            damage: vec![piece.clone()],
            more_damage: 15,
            ..ScrubState::default()
        };
        let text = serde_json::to_vec(&Saved::of(&state, [1; 16])).unwrap();
        let back: Saved = serde_json::from_slice(&text).unwrap();
        let back = back.state().unwrap();
        assert_eq!((back.position, back.damage), (Some(position), vec![piece]));
        assert_eq!((back.nodes, back.blocks, back.total_bytes, back.more_damage), (12, 13, 14, 15));
        assert!(Saved::of(&ScrubState::default(), [1; 16]).is_none());
    }
}
