//! Resolves names to files: which file of a crate uses which. A name re-exported by a `pub use` counts as a
//! use of the file that defines it, so a hub of re-exports makes no circle.

use std::collections::BTreeMap;

use super::tree::{Tree, Use};

/// Maximum depth of names that lead to other names: deeper than Rust accepts here.
const DEPTH: usize = 32;

/// Which file uses which, and the first line that does.
pub(super) type Imports = BTreeMap<(usize, usize), usize>;

/// What a path leads to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Module(usize),
    /// An item that this module defines.
    In(usize),
}

/// The imports of a crate whose programs use its library as `library`.
pub(super) fn imports(tree: &Tree, library: &str) -> Imports {
    let resolver = Resolver { tree, library };
    let mut imports = Imports::new();
    let mut add = |from: usize, found: &[Found], line: usize, own: Option<usize>| {
        for found in found {
            let Found::In(module) = *found else { continue };
            let (from, to) = (tree.modules[from].file, tree.modules[module].file);
            if from == to || own.is_some_and(|own| tree.is_below(module, own)) {
                continue;
            }
            let first = imports.entry((from, to)).or_insert(line);
            *first = line.min(*first);
        }
    };
    for (at, module) in tree.modules.iter().enumerate() {
        for import in &module.uses {
            let found = resolver.import(at, import, 0);
            // Re-exporting an item of a child module is not a use.
            add(at, &found, import.line, import.passes_on.then_some(at));
        }
        let is_variable = |path: &[String]| matches!(path, [name] if module.variables.contains(name));
        for mention in module.mentions.iter().filter(|mention| !is_variable(&mention.path)) {
            add(at, &resolver.path(at, &mention.path, 0), mention.line, None);
        }
    }
    imports
}

struct Resolver<'t> {
    tree: &'t Tree,
    library: &'t str,
}

impl Resolver<'_> {
    /// The targets of an import; empty if they are in another crate.
    fn import(&self, at: usize, import: &Use, depth: usize) -> Vec<Found> {
        self.path(at, &import.path, depth)
    }

    /// The meaning of a path in a module.
    fn path(&self, at: usize, path: &[String], depth: usize) -> Vec<Found> {
        if depth > DEPTH {
            return Vec::new();
        }
        let Some((first, rest)) = path.split_first() else { return Vec::new() };
        let module = &self.tree.modules[at];
        let begin = match first.as_str() {
            "crate" => vec![Found::Module(self.tree.root_of(at))],
            "self" => vec![Found::Module(at)],
            "super" => module.parent.map(Found::Module).into_iter().collect(),
            name => {
                let here = self.name(at, name, !rest.is_empty(), depth);
                let root = self.tree.root_of(at);
                match self.tree.roots.first() {
                    Some(&lib) if here.is_empty() && name == self.library && root != lib => {
                        vec![Found::Module(lib)]
                    }
                    _ => here,
                }
            }
        };
        begin.into_iter().flat_map(|begin| self.on(begin, rest, depth)).collect()
    }

    /// The targets of the rest of a path, starting from those of its beginning.
    fn on(&self, from: Found, rest: &[String], depth: usize) -> Vec<Found> {
        let (Found::Module(module), Some((name, rest))) = (from, rest.split_first()) else {
            return vec![from];
        };
        if name == "super" {
            let parent = self.tree.modules[module].parent;
            return parent.map_or(Vec::new(), |parent| self.on(Found::Module(parent), rest, depth));
        }
        if name == "self" {
            return self.on(from, rest, depth);
        }
        let next = self.name(module, name, !rest.is_empty(), depth);
        next.into_iter().flat_map(|next| self.on(next, rest, depth)).collect()
    }

    /// The meaning of a name in a module; `leads_on`: it precedes a `::`, where modules take precedence.
    fn name(&self, at: usize, name: &str, leads_on: bool, depth: usize) -> Vec<Found> {
        if depth > DEPTH {
            return Vec::new();
        }
        let module = &self.tree.modules[at];
        let mut found: Vec<Found> = module
            .children
            .iter()
            .filter(|(child, _)| child == name)
            .filter_map(|&(_, child)| child.map(Found::Module))
            .collect();
        if leads_on && !found.is_empty() {
            return found;
        }
        if module.items.contains(name) {
            found.push(Found::In(at));
        }
        if let Some(&defines) = module.exported.get(name) {
            found.push(Found::In(defines));
        }
        for import in module.uses.iter().filter(|import| import.name.as_deref() == Some(name)) {
            // A crate that is imported under its own name would lead back here.
            if import.path.len() > 1 || import.path.first().is_some_and(|first| first != name) {
                found.extend(self.import(at, import, depth + 1));
            }
        }
        if found.is_empty() {
            for import in module.uses.iter().filter(|import| import.name.is_none()) {
                for source in self.import(at, import, depth + 1) {
                    if let Found::Module(source) = source
                        && source != at
                    {
                        found.extend(self.name(source, name, leads_on, depth + 1));
                    }
                }
            }
        }
        found
    }
}
