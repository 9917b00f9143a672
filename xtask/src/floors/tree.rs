//! The modules of a crate as its sources have them: the files they stand in, what each defines, what it imports, and
//! every path that its code mentions. Code that only `cargo test` compiles is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Item, UseTree, Visibility};

use crate::folders;

/// A crate's modules. The first ones are its roots: a library, a program, or both.
#[derive(Default)]
pub(super) struct Tree {
    pub(super) modules: Vec<Module>,
    /// Relative to the crate's folder.
    pub(super) files: Vec<PathBuf>,
    /// Which module is the root of a file that cargo compiles.
    pub(super) roots: Vec<usize>,
}

/// One module, of a file or of a part of it.
pub(super) struct Module {
    /// Index of the file that it stands in.
    pub(super) file: usize,
    /// Index of the module around it; none of a root.
    pub(super) parent: Option<usize>,
    /// Modules declared here; several of one name are alternatives. None: made while the crate is built, or another
    /// crate's file.
    pub(super) children: Vec<(String, Option<usize>)>,
    /// What is defined here.
    pub(super) items: BTreeSet<String>,
    pub(super) uses: Vec<Use>,
    pub(super) mentions: Vec<Mention>,
    /// Variables: where one of these stands alone, nothing of that name elsewhere is meant.
    pub(super) variables: BTreeSet<String>,
    /// Of a root: its macros that are exported, and the modules that define them.
    pub(super) exported: BTreeMap<String, usize>,
}

/// One name that a `use` brings.
pub(super) struct Use {
    /// What it is called here; none: all that is there.
    pub(super) name: Option<String>,
    pub(super) path: Vec<String>,
    /// Counted from 1.
    pub(super) line: usize,
    /// Whether others may have it from here.
    pub(super) passes_on: bool,
}

/// A path in code.
pub(super) struct Mention {
    pub(super) path: Vec<String>,
    /// Counted from 1.
    pub(super) line: usize,
}

impl Tree {
    /// Reads the modules from their roots on. `roots` are relative to `folder`.
    ///
    /// # Errors
    /// A file that cannot be read or parsed.
    pub(super) fn read(folder: &Path, roots: &[PathBuf]) -> Result<Self> {
        let mut tree = Self::default();
        for root in roots {
            // A root's modules are beside it, whatever its own name.
            let beside = root.parent().unwrap_or(Path::new("")).to_path_buf();
            let module = tree.file(folder, root, &beside, None)?;
            tree.roots.push(module);
        }
        Ok(tree)
    }

    /// The root of a module.
    pub(super) fn root_of(&self, mut module: usize) -> usize {
        // Each turn goes one module up.
        while let Some(parent) = self.modules[module].parent {
            module = parent;
        }
        module
    }

    /// Whether a module is below another one.
    pub(super) fn is_below(&self, mut module: usize, other: usize) -> bool {
        // Each turn goes one module up.
        while let Some(parent) = self.modules[module].parent {
            if parent == other {
                return true;
            }
            module = parent;
        }
        false
    }

    fn add(&mut self, file: usize, parent: Option<usize>) -> usize {
        self.modules.push(Module {
            file,
            parent,
            children: Vec::new(),
            items: BTreeSet::new(),
            uses: Vec::new(),
            mentions: Vec::new(),
            variables: BTreeSet::new(),
            exported: BTreeMap::new(),
        });
        self.modules.len() - 1
    }

    /// One file, whose modules are in the folder `inside`.
    fn file(&mut self, folder: &Path, path: &Path, inside: &Path, parent: Option<usize>) -> Result<usize> {
        let whole = folder.join(path);
        let text = fs::read_to_string(&whole).with_context(|| format!("cannot read {}", whole.display()))?;
        let parsed = syn::parse_file(&text).with_context(|| format!("cannot parse {}", whole.display()))?;
        self.files.push(path.to_path_buf());
        let module = self.add(self.files.len() - 1, parent);
        let beside = path.parent().unwrap_or(Path::new("")).to_path_buf();
        self.items(&Place { folder, beside: &beside, inside }, module, &parsed.items)?;
        Ok(module)
    }

    fn items(&mut self, place: &Place<'_>, module: usize, items: &[Item]) -> Result<()> {
        for item in items {
            if for_tests(attributes(item)) {
                continue;
            }
            if let Item::Mod(declared) = item {
                self.module(place, module, declared)?;
                continue;
            }
            // The table of drivers brings their folders in: see drivers/src/lib.rs.
            if let Item::Macro(call) = item
                && call.mac.path.is_ident("drivers")
                && call.mac.tokens.to_string().starts_with("folders")
            {
                for folder in folders::of_drivers() {
                    self.module(place, module, &syn::parse_str(&format!("pub mod {folder};"))?)?;
                }
                continue;
            }
            if let Item::Macro(definition) = item
                && let Some(name) = &definition.ident
                && definition.attrs.iter().any(|attribute| attribute.path().is_ident("macro_export"))
            {
                let root = self.root_of(module);
                self.modules[root].exported.insert(name.to_string(), module);
            }
            let mut reader = Reader { module: &mut self.modules[module] };
            reader.define(item);
            reader.visit_item(item);
        }
        Ok(())
    }

    fn module(&mut self, place: &Place<'_>, module: usize, declared: &syn::ItemMod) -> Result<()> {
        let name = plain(&declared.ident);
        let child = if let Some((_, items)) = &declared.content {
            let child = self.add(self.modules[module].file, Some(module));
            let inside = place.inside.join(&name);
            self.items(&Place { beside: &inside, inside: &inside, ..*place }, child, items)?;
            Some(child)
        } else {
            let candidates = match elsewhere(&declared.attrs) {
                // What is beside the crate is another one's.
                Some(path) if path.starts_with("..") => Vec::new(),
                Some(path) => vec![place.beside.join(path)],
                None => {
                    vec![place.inside.join(format!("{name}.rs")), place.inside.join(&name).join("mod.rs")]
                }
            };
            match candidates.into_iter().find(|path| place.folder.join(path).is_file()) {
                Some(path) => {
                    let inside = match path.file_name().is_some_and(|name| name == "mod.rs") {
                        true => path.parent().unwrap_or(Path::new("")).to_path_buf(),
                        false => path.with_extension(""),
                    };
                    Some(self.file(place.folder, &path, &inside, Some(module))?)
                }
                None => None,
            }
        };
        self.modules[module].children.push((name, child));
        Ok(())
    }
}

/// Where a module's own modules are looked for.
struct Place<'p> {
    /// The crate's.
    folder: &'p Path,
    /// The folder of the file.
    beside: &'p Path,
    /// The folder of its modules.
    inside: &'p Path,
}

/// A name without the `r#` of one that is a keyword.
fn plain(name: &Ident) -> String {
    let name = name.to_string();
    name.strip_prefix("r#").map_or(name.clone(), str::to_owned)
}

/// The file of a module, if an attribute names it.
fn elsewhere(attributes: &[Attribute]) -> Option<String> {
    attributes.iter().find_map(|attribute| match &attribute.meta {
        syn::Meta::NameValue(pair) if pair.path.is_ident("path") => match &pair.value {
            syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(path), .. }) => Some(path.value()),
            _ => None,
        },
        _ => None,
    })
}

/// Whether attributes keep an item for `cargo test`.
fn for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let path = attribute.path();
        let syn::Meta::List(list) = &attribute.meta else { return path.is_ident("test") };
        let condition: String = list.tokens.to_string().chars().filter(|c| !c.is_whitespace()).collect();
        path.is_ident("cfg") && (condition == "test" || condition.starts_with("all(test,"))
    })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

struct Reader<'m> {
    module: &'m mut Module,
}

impl Reader<'_> {
    /// What an item adds to the module.
    fn define(&mut self, item: &Item) {
        let name = match item {
            Item::Const(item) => &item.ident,
            Item::Enum(item) => &item.ident,
            Item::Fn(item) => &item.sig.ident,
            Item::Static(item) => &item.ident,
            Item::Struct(item) => &item.ident,
            Item::Trait(item) => &item.ident,
            Item::TraitAlias(item) => &item.ident,
            Item::Type(item) => &item.ident,
            Item::Union(item) => &item.ident,
            Item::Macro(item) => match &item.ident {
                Some(name) => name,
                None => return self.define_in(item.mac.tokens.clone()),
            },
            Item::ForeignMod(block) => {
                for item in &block.items {
                    let name = match item {
                        syn::ForeignItem::Fn(item) => &item.sig.ident,
                        syn::ForeignItem::Static(item) => &item.ident,
                        syn::ForeignItem::Type(item) => &item.ident,
                        _ => continue,
                    };
                    self.module.items.insert(plain(name));
                }
                return;
            }
            _ => return,
        };
        self.module.items.insert(plain(name));
    }

    /// What a macro defines, as far as its text says so.
    fn define_in(&mut self, tokens: TokenStream) {
        const KEYWORDS: [&str; 8] = ["struct", "enum", "fn", "const", "static", "type", "trait", "union"];
        let mut after_keyword = false;
        for token in tokens {
            match token {
                TokenTree::Ident(name) => {
                    let keyword = KEYWORDS.contains(&name.to_string().as_str());
                    if after_keyword && !keyword {
                        self.module.items.insert(plain(&name));
                    }
                    after_keyword = keyword;
                }
                TokenTree::Group(group) => {
                    after_keyword = false;
                    self.define_in(group.stream());
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => after_keyword = false,
            }
        }
    }

    fn mention(&mut self, path: Vec<String>, at: Span) {
        self.module.mentions.push(Mention { path, line: at.start().line });
    }

    /// Paths in a macro or an attribute, neither of which is parsed.
    fn tokens(&mut self, tokens: TokenStream) {
        // The path so far, where it begins, and how many colons came after its last name.
        let mut path: Vec<String> = Vec::new();
        let mut begin = Span::call_site();
        let mut colons = 0;
        let mut member = false;
        for token in tokens {
            match token {
                TokenTree::Ident(name) => {
                    if colons != 2 {
                        self.end(&mut path, begin);
                        begin = name.span();
                    }
                    if !member {
                        path.push(plain(&name));
                    }
                    (colons, member) = (0, false);
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' && !path.is_empty() => colons += 1,
                other => {
                    self.end(&mut path, begin);
                    colons = 0;
                    member = matches!(&other, TokenTree::Punct(punct) if punct.as_char() == '.');
                    if let TokenTree::Group(group) = other {
                        self.tokens(group.stream());
                    }
                }
            }
        }
        self.end(&mut path, begin);
    }

    fn end(&mut self, path: &mut Vec<String>, begin: Span) {
        if !path.is_empty() {
            self.mention(std::mem::take(path), begin);
        }
    }

    fn import(&mut self, tree: &UseTree, mut before: Vec<String>, passes_on: bool) {
        let (name, line) = match tree {
            UseTree::Path(path) => {
                before.push(plain(&path.ident));
                return self.import(&path.tree, before, passes_on);
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.import(tree, before.clone(), passes_on);
                }
                return;
            }
            UseTree::Glob(glob) => (None, glob.star_token.spans[0].start().line),
            UseTree::Name(name) => {
                let line = name.ident.span().start().line;
                if name.ident != "self" {
                    before.push(plain(&name.ident));
                }
                (before.last().cloned(), line)
            }
            UseTree::Rename(renamed) => {
                if renamed.ident != "self" {
                    before.push(plain(&renamed.ident));
                }
                (Some(plain(&renamed.rename)), renamed.ident.span().start().line)
            }
        };
        self.module.uses.push(Use { name, path: before, line, passes_on });
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if item.leading_colon.is_none() {
            self.import(&item.tree, Vec::new(), !matches!(item.vis, Visibility::Inherited));
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.leading_colon.is_none()
            && let Some(first) = path.segments.first()
        {
            let names = path.segments.iter().map(|segment| plain(&segment.ident)).collect();
            self.mention(names, first.ident.span());
        }
        visit::visit_path(self, path);
    }

    fn visit_pat_ident(&mut self, pattern: &'ast syn::PatIdent) {
        self.module.variables.insert(plain(&pattern.ident));
        visit::visit_pat_ident(self, pattern);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !for_tests(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if let syn::Meta::List(list) = &attribute.meta {
            self.tokens(list.tokens.clone());
        }
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.visit_path(&call.path);
        self.tokens(call.tokens.clone());
    }
}
