//! What a pool holds, as expected and as found.

use std::collections::BTreeMap;

use amberfs::fs::FileKind;

/// Names that are none begin with this: those by which the workload calls the files that it holds open.
pub(super) const HELD: char = '/';

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) kind: FileKind,
    pub(super) perm: u32,
    pub(super) owner: (u32, u32),
    pub(super) links: u32,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// A symbolic link's target, too.
    pub(super) content: Vec<u8>,
}

impl Node {
    pub(super) fn new(kind: FileKind, perm: u32) -> Node {
        let links = if kind == FileKind::Directory { 2 } else { 1 };
        let (xattrs, content) = Default::default();
        Node { kind, perm, owner: (0, 0), links, xattrs, content }
    }
}

/// A volume or a snapshot: files by numbers, and their paths; the root's is empty.
#[derive(Debug, Clone, Default)]
pub(super) struct Tree {
    pub(super) names: BTreeMap<String, u64>,
    pub(super) nodes: BTreeMap<u64, Node>,
    pub(super) quota: Option<u64>,
    pub(super) labels: BTreeMap<String, String>,
}

/// The volumes and their snapshots, as `volume` and `volume@snapshot`.
pub(super) type Model = BTreeMap<String, Tree>;

/// A path's directory, and its last part.
pub(super) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

impl Tree {
    /// With nothing but the root.
    pub(super) fn new() -> Tree {
        let root = Node::new(FileKind::Directory, 0o755);
        Tree {
            names: BTreeMap::from([(String::new(), 1)]),
            nodes: BTreeMap::from([(1, root)]),
            ..Tree::default()
        }
    }

    pub(super) fn at(&mut self, path: &str) -> Option<&mut Node> {
        self.nodes.get_mut(self.names.get(path)?)
    }

    pub(super) fn content(&mut self, path: &str) -> Option<&mut Vec<u8>> {
        self.at(path).map(|node| &mut node.content)
    }

    /// Enters a file under a path, and what is below it with it.
    pub(super) fn put(&mut self, path: &str, (id, below): Taken) {
        self.count(path, id, true);
        self.names.insert(path.to_owned(), id);
        let below = below.into_iter().map(|(rest, id)| (format!("{path}{rest}"), id));
        self.names.extend(below);
    }

    /// Takes a path away, and what is below it.
    pub(super) fn take(&mut self, path: &str) -> Option<Taken> {
        let id = self.names.remove(path)?;
        self.count(path, id, false);
        let prefix = format!("{path}/");
        let below = self.names.iter().filter(|(name, _)| name.starts_with(&prefix));
        let below = below.map(|(name, id)| (name[path.len()..].to_owned(), *id)).collect();
        self.names.retain(|name, _| !name.starts_with(&prefix));
        Some((id, below))
    }

    /// A directory's links count its subdirectories.
    fn count(&mut self, path: &str, id: u64, up: bool) {
        if self.nodes[&id].kind == FileKind::Directory
            && let Some(above) = self.at(split(path).0)
        {
            above.links = if up { above.links + 1 } else { above.links - 1 };
        }
    }

    /// Files that nothing names any more are gone.
    pub(super) fn prune(&mut self) {
        let names = &self.names;
        self.nodes.retain(|id, _| names.values().any(|other| other == id));
    }

    /// As it is in a snapshot, or after the death of the process: nobody holds anything.
    pub(super) fn released(&self) -> Tree {
        let mut tree = self.clone();
        tree.names.retain(|name, _| !name.starts_with(HELD));
        tree.prune();
        tree
    }

    /// Where it differs first.
    fn difference(&self, expected: &Tree) -> Option<String> {
        if !self.names.keys().eq(expected.names.keys()) {
            let (found, expected) = (self.names.keys(), expected.names.keys());
            return Some(format!("found {found:?}, expected {expected:?}"));
        }
        let mut same = BTreeMap::new();
        for ((name, id), other) in self.names.iter().zip(expected.names.values()) {
            if same.insert(other, id).is_some_and(|before| before != id) {
                return Some(format!("'{name}' is not the file that its other name has"));
            }
            if let Some(difference) = self.nodes[id].difference(&expected.nodes[other]) {
                return Some(format!("'{name}' {difference}"));
            }
        }
        let settings = ((self.quota, &self.labels), (expected.quota, &expected.labels));
        (settings.0 != settings.1).then(|| format!("quota and labels are {settings:?}"))
    }
}

/// A file that was taken from its path, and what was below it.
type Taken = (u64, Vec<(String, u64)>);

impl Node {
    fn difference(&self, expected: &Node) -> Option<String> {
        let attributes = |node: &Node| (node.kind, node.perm, node.owner, node.links);
        if attributes(self) != attributes(expected) {
            let (found, expected) = (attributes(self), attributes(expected));
            return Some(format!("is {found:?}, expected {expected:?}"));
        }
        if self.xattrs != expected.xattrs {
            return Some(format!("has attributes {:?}", self.xattrs.keys()));
        }
        let (found, expected) = (&self.content, &expected.content);
        let at = found.iter().zip(expected).position(|(a, b)| a != b);
        let lens = (found.len(), expected.len());
        (found != expected).then(|| format!("has length {lens:?}, differs at {at:?}"))
    }
}

/// Where two models differ first, if they do.
pub(super) fn difference(found: &Model, expected: &Model) -> Option<String> {
    if !found.keys().eq(expected.keys()) {
        return Some(format!("found {:?}, expected {:?}", found.keys(), expected.keys()));
    }
    let mut pairs = found.iter().zip(expected.values());
    pairs.find_map(|((name, tree), other)| {
        tree.difference(other).map(|difference| format!("{name}: {difference}"))
    })
}

impl PartialEq for Tree {
    fn eq(&self, other: &Tree) -> bool {
        self.difference(other).is_none()
    }
}
