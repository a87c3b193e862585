//! That the crash matrix can fail: storages that break a rule of the commit order, and states that break a
//! promise. Each has to be caught.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use amberfs::device::{BlockDevice, DeviceName, Storage};

use crate::crashes::{Depth, try_all};
use crate::ops::Op;
use crate::state::Tree;
use crate::verify::{Crash, Cut, Found, Reopened, verify_found};
use crate::workload::{Durable, Shape, World};

/// What is wrong with a storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// Its syncs do nothing.
    NoSync(DeviceName),
    /// The data is synced after the superblock that leads to it was.
    SuperblockFirst,
    /// What is to be written is kept back until the next sync, which comes back before that is durable.
    LateWrites(DeviceName),
    /// A sync of the journal, but only every second one.
    EverySecondSync,
}

/// One device of a storage with a fault.
#[derive(Debug)]
struct Device {
    name: DeviceName,
    inner: Arc<dyn BlockDevice>,
    data: Arc<dyn BlockDevice>,
    fault: Fault,
    /// A sync of the data that is to be made up for, or one of the journal that was done.
    owed: Arc<AtomicBool>,
}

fn with_fault(storage: &Storage, fault: Fault) -> Storage {
    let owed = Arc::new(AtomicBool::new(false));
    let data = Arc::clone(&storage.data);
    storage.map(|name, inner| {
        let (data, owed) = (Arc::clone(&data), Arc::clone(&owed));
        Arc::new(Device { name, inner, data, fault, owed })
    })
}

impl BlockDevice for Device {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.inner.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.fault == Fault::LateWrites(self.name) && self.owed.swap(false, Ordering::Relaxed) {
            self.inner.sync()?;
        }
        self.inner.write_at(offset, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        match (self.fault, self.name) {
            (Fault::NoSync(name), _) if name == self.name => Ok(()),
            (Fault::LateWrites(name), _) if name == self.name => {
                self.owed.store(true, Ordering::Relaxed);
                Ok(())
            }
            (Fault::SuperblockFirst, DeviceName::Data) => {
                self.owed.store(true, Ordering::Relaxed);
                Ok(())
            }
            (Fault::SuperblockFirst, DeviceName::Superblock) => {
                self.inner.sync()?;
                if self.owed.swap(false, Ordering::Relaxed) { self.data.sync() } else { Ok(()) }
            }
            (Fault::EverySecondSync, DeviceName::Journal) => {
                if self.owed.fetch_xor(true, Ordering::Relaxed) {
                    Ok(())
                } else {
                    self.inner.sync()
                }
            }
            _ => self.inner.sync(),
        }
    }

    fn punch(&self, offset: u64, len_bytes: u64) -> io::Result<()> {
        self.inner.punch(offset, len_bytes)
    }

    fn len_bytes(&self) -> io::Result<u64> {
        self.inner.len_bytes()
    }

    fn grow(&self, len_bytes: u64) -> io::Result<()> {
        self.inner.grow(len_bytes)
    }

    fn available_bytes(&self) -> io::Result<u64> {
        self.inner.available_bytes()
    }
}

/// Whether a check panics; what it says is not shown.
pub(crate) fn is_caught(check: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(check)).is_err()
}

/// Operations that use what every rule of the commit order is for.
const TELLING: [Op; 16] = [
    Op::Create,
    Op::WriteBlocks,
    Op::Fsync,
    Op::Overwrite,
    Op::Checkpoint,
    Op::WriteBlocks,
    Op::Mkdir,
    Op::Snapshot,
    Op::Overwrite,
    Op::Checkpoint,
    Op::DeleteSnapshot,
    Op::Reclaim,
    Op::Checkpoint,
    Op::Overwrite,
    Op::Append,
    Op::Checkpoint,
];

fn telling(seed: u64, fault: Fault) {
    let mut world = World::planted(seed, Shape::ROOMY, |storage| with_fault(&storage, fault));
    TELLING.into_iter().for_each(|op| world.step(op));
    let depth = Depth { enumerated: 4, seeds: 4, again: 64 };
    try_all(&world, 0, &format!("{fault:?}, seed {seed}"), depth);
}

#[test]
fn a_storage_that_breaks_the_commit_order_is_caught() {
    for seed in 0..3 {
        telling(seed, Fault::None);
        for fault in [
            Fault::NoSync(DeviceName::Superblock),
            Fault::NoSync(DeviceName::Journal),
            Fault::NoSync(DeviceName::Data),
            Fault::SuperblockFirst,
            Fault::LateWrites(DeviceName::Journal),
            Fault::LateWrites(DeviceName::Data),
            Fault::EverySecondSync,
        ] {
            assert!(is_caught(|| telling(seed, fault)), "{fault:?} with seed {seed} is not caught");
        }
    }
}

/// A history that ends with data that is not synced, and the pool as it is after it.
struct Unsynced {
    world: World,
    found: Found,
    cut: Cut,
    /// A file whose first block is synced, and one that got another block after it.
    synced: u64,
    written: u64,
}

impl Unsynced {
    fn content(world: &World, step: usize, ino: u64) -> &[u8] {
        let content = world.steps[step].state.volumes["main"].live.content.get(&ino);
        content.map_or(&[], |content| content.as_slice())
    }

    fn new() -> Unsynced {
        let ops =
            [Op::Create, Op::WriteBlocks, Op::Create, Op::WriteBlocks, Op::Snapshot, Op::Mkdir];
        let ops = ops.into_iter().chain([Op::Overwrite, Op::Fsync, Op::Create, Op::WriteBlocks]);
        // Which files they are done to, is in the seed.
        let worlds = (0..).map(|seed| {
            let mut world = World::new(seed, Shape::ROOMY);
            ops.clone().for_each(|op| world.step(op));
            world
        });
        let suitable = |world: World| {
            let last = world.steps.len() - 1;
            let Durable::File(_, synced) = world.promises.last()?.what else { return None };
            let all = &world.steps[last].state.volumes["main"].live.content;
            let longer = |ino: &u64| {
                let len = |step| Unsynced::content(&world, step, *ino).len().div_ceil(4096);
                len(last) > len(last - 1)
            };
            let written = *all.keys().find(|ino| longer(ino))?;
            let has_data =
                Unsynced::content(&world, last, synced).iter().take(4096).any(|b| *b != 0);
            (has_data && synced != written).then_some((world, synced, written))
        };
        let (world, synced, written) = worlds.filter_map(suitable).next().expect("one of many");
        let at = world.recorder.len();
        let mut states = world.recorder.states();
        states.step_to(at);
        let found = Reopened::new(states.image().storage()).read();
        let cut = Cut { at, crash: Crash::Power, what: "planted".into() };
        Unsynced { world, found, cut, synced, written }
    }
}

fn change(tree: &mut Tree, ino: u64, f: impl FnOnce(&mut Vec<u8>)) {
    f(Arc::make_mut(tree.content.get_mut(&ino).expect("the file is there")));
}

#[test]
fn a_state_that_breaks_a_promise_is_caught() {
    let Unsynced { world, found, cut, synced, written } = Unsynced::new();
    let last = world.steps.len() - 1;
    let block = (found.state.volumes["main"].live.content[&written].len() - 1) / 4096 * 4096;
    let plant = |f: &dyn Fn(&mut Found)| {
        let mut found = found.clone();
        f(&mut found);
        verify_found(&world, &found, &cut)
    };
    let caught = |what: &str, f: &dyn Fn(&mut Found)| {
        let caught = is_caught(|| {
            plant(f);
        });
        assert!(caught, "{what} is not caught");
    };
    let live = |found: &mut Found, f: &dyn Fn(&mut Tree)| {
        f(&mut found.state.volumes.get_mut("main").expect("the volume").live);
    };
    assert_eq!(plant(&|_| ()), last, "the state as it was");
    let lost = plant(&|found| {
        live(found, &|tree| change(tree, written, |bytes| bytes[block..].fill(0)));
    });
    assert_eq!(lost, last, "unsynced data may be missing");

    caught("other data in place of unsynced data", &|found| {
        live(found, &|tree| change(tree, written, |bytes| bytes[block..].fill(0xa5)));
    });
    caught("unsynced data with one changed byte", &|found| {
        live(found, &|tree| change(tree, written, |bytes| bytes[block] ^= 1));
    });
    caught("synced data that is missing", &|found| {
        live(found, &|tree| change(tree, synced, |bytes| bytes[..4096].fill(0)));
    });
    caught("synced data that is another file's", &|found| {
        let other = found.state.volumes["main"].live.content[&written][..4096].to_vec();
        live(found, &|tree| change(tree, synced, |bytes| bytes[..4096].copy_from_slice(&other)));
    });
    caught("a name that is missing", &|found| live(found, &|tree| drop(tree.files.pop_last())));
    caught("a size that never was", &|found| {
        live(found, &|tree| {
            let meta = tree.files.values_mut().find(|meta| meta.ino == written);
            meta.expect("the file has a name").size -= 1;
        });
    });
    caught("an attribute out of nowhere", &|found| {
        live(found, &|tree| {
            let root = tree.files.get_mut("/").expect("the root");
            root.xattrs.insert(b"user.a".to_vec(), b"b".to_vec());
        });
    });
    caught("a state from before what was synced", &|found| {
        found.state = (*world.steps[1].state).clone();
    });
    caught("a snapshot that is missing", &|found| {
        found.state.volumes.get_mut("main").expect("the volume").snapshots.clear();
    });
    caught("a snapshot with a changed byte", &|found| {
        let tree = found.snapshots.values_mut().next().expect("a snapshot");
        let ino = *tree.content.iter().find(|(_, bytes)| !bytes.is_empty()).expect("data").0;
        change(tree, ino, |bytes| bytes[0] ^= 1);
    });
    caught("a snapshot that has what came after it", &|found| {
        let live = found.state.volumes["main"].live.clone();
        found.snapshots.values_mut().for_each(|tree| *tree = live.clone());
    });
}
