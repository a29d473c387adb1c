//! The rooms of `src/`: what depends on what. The order is that of the modules in `lib.rs`: a room
//! uses those before it. In a room no files need each other in a circle, but for a file and what is in
//! its own folder.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use syn::{
    Attribute, Item, Macro, UseTree,
    visit::{self, Visit},
};

/// A module by its path below the crate, `["maps", "tables"]`.
type Module = Vec<String>;

/// An import, and where it leads.
#[derive(Debug)]
struct Arrow {
    from: Module,
    to: Module,
    /// As it is written.
    path: String,
}

impl Arrow {
    fn text(&self) -> String {
        format!("{} imports {} ({})", self.from.join("::"), self.to.join("::"), self.path)
    }
}

#[test]
fn arrows_between_rooms_only_go_down_and_none_in_a_circle() {
    let code = Code::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let rooms = &code.rooms;
    let arrows = code.arrows();
    // What looks at nothing finds nothing.
    assert!(rooms.len() >= 8, "{rooms:?}");
    for room in rooms {
        let files = code.modules.keys().filter(|module| module.first() == Some(room));
        assert!(files.count() > 0, "{room} has no file");
        let seen = arrows.iter().any(|arrow| [&arrow.from[0], &arrow.to[0]].contains(&room));
        assert!(seen, "{room} has no arrow");
    }
    assert!(arrows.len() > 200, "{}", arrows.len());
    let mut problems = upward(&arrows, rooms);
    problems.extend(circles(&arrows));
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

/// The data path has no rooms, but no circles either.
#[test]
fn no_files_of_the_data_path_need_each_other_in_a_circle() {
    let code = Code::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../router-ebpf/src"));
    let arrows = code.arrows();
    assert!(arrows.len() > 100, "{}", arrows.len());
    let problems = circles(&arrows);
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn what_is_wrong_is_seen_however_it_is_written() {
    let look = |low: &str, high: &str| {
        let code = Code::of(&[
            ("lib.rs", "pub mod low;\npub mod high;\n"),
            ("low.rs", "mod one;\nmod two;\npub use two::Two;\n"),
            ("low/one.rs", low),
            ("low/two.rs", high),
            ("high.rs", "pub struct High;\nuse crate::low::Two;\n"),
        ]);
        let arrows = code.arrows();
        [upward(&arrows, &code.rooms).len(), circles(&arrows).len()]
    };
    for up in [
        "use crate::high::High;",
        "use crate::{high::{self, High}};",
        "use super::super::high;",
        "fn f() -> crate::high::High { todo!() }",
    ] {
        assert!(look(up, "")[0] > 0, "{up}");
    }
    for (one, two) in [
        ("use super::two::Two;", "use super::one;"),
        ("use super::Two;", "pub struct Two; fn f() { super::one::f() }"),
        ("use crate::low::{Two as Other};", "use crate::{low::one::f as g};"),
    ] {
        assert_eq!(look(one, two), [0, 1], "{one} {two}");
    }
    for (one, two) in [
        ("use super::Two;", "pub struct Two;"),
        ("// use crate::high::High;", "use std::fmt; use high::High;"),
        ("#[cfg(test)]\nmod tests {\n    use crate::high::High;\n}\n", ""),
        ("", "use super::{self as low};"),
    ] {
        assert_eq!(look(one, two), [0, 0], "{one} {two}");
    }
}

/// Arrows that lead to a room above.
fn upward(arrows: &[Arrow], rooms: &[String]) -> Vec<String> {
    let floor = |module: &Module| rooms.iter().position(|room| *room == module[0]);
    let up = arrows.iter().filter(|arrow| floor(&arrow.to) > floor(&arrow.from));
    up.map(|arrow| format!("up: {}", arrow.text())).collect()
}

/// One circle for each arrow that closes one.
fn circles(arrows: &[Arrow]) -> Vec<String> {
    let mut rest: Vec<&Arrow> = arrows.iter().collect();
    // What nothing leads to, or what leads nowhere, is in no circle.
    loop {
        let from: BTreeSet<&Module> = rest.iter().map(|arrow| &arrow.from).collect();
        let to: BTreeSet<&Module> = rest.iter().map(|arrow| &arrow.to).collect();
        let before = rest.len();
        rest.retain(|arrow| from.contains(&arrow.to) && to.contains(&arrow.from));
        if rest.len() == before {
            break;
        }
    }
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    while let Some(first) = rest.iter().find(|arrow| !seen.contains(&arrow.from)) {
        // Followed for long enough, any way gets into a circle.
        let mut way: Vec<&Arrow> = vec![first];
        while let Some(next) = rest.iter().find(|arrow| arrow.from == way[way.len() - 1].to) {
            let begin = way.iter().position(|arrow| arrow.from == next.from);
            if let Some(begin) = begin {
                let circle: Vec<String> = way[begin..].iter().map(|arrow| arrow.text()).collect();
                if !way[begin..].iter().any(|arrow| seen.contains(&arrow.from)) {
                    found.push(format!("circle: {}", circle.join(", ")));
                }
                break;
            }
            way.push(next);
        }
        seen.extend(way.iter().map(|arrow| arrow.from.clone()));
    }
    found
}

/// The modules of a crate, without their tests.
struct Code {
    modules: BTreeMap<Module, Seen>,
    /// The modules of the root, in its order.
    rooms: Vec<String>,
}

impl Code {
    fn read(src: &Path) -> Self {
        let mut files = Vec::new();
        let mut folders = vec![src.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let name = path.strip_prefix(src).unwrap().to_str().unwrap().to_owned();
                    files.push((name, fs::read_to_string(path).unwrap()));
                }
            }
        }
        let files: Vec<_> = files.iter().map(|(name, text)| (&name[..], &text[..])).collect();
        Self::of(&files)
    }

    fn of(files: &[(&str, &str)]) -> Self {
        let (mut modules, mut tests, mut rooms) = (BTreeMap::new(), BTreeSet::new(), Vec::new());
        for (name, text) in files.iter().filter(|(name, _)| *name != "main.rs") {
            let name = name.trim_end_matches(".rs").trim_end_matches("/mod");
            let module: Module =
                name.split('/').filter(|part| *part != "lib").map(str::to_owned).collect();
            let mut seen = Seen::default();
            seen.visit_file(&syn::parse_file(text).unwrap());
            tests.extend(seen.tests.iter().map(|test| child(&module, test)));
            if module.is_empty() {
                rooms.clone_from(&seen.modules);
            }
            modules.insert(module, seen);
        }
        modules.retain(|module, _| !tests.contains(module));
        Self { modules, rooms }
    }

    fn arrows(&self) -> Vec<Arrow> {
        let names = self.names();
        let mut arrows = Vec::new();
        for (from, seen) in self.modules.iter().filter(|(module, _)| !module.is_empty()) {
            for path in seen.uses.iter().map(|(path, _)| path).chain(&seen.paths) {
                let Some(to) = self.follow(from, path, &names) else { continue };
                if !to.starts_with(from) && !from.starts_with(&to) {
                    arrows.push(Arrow { from: from.clone(), to, path: path.join("::") });
                }
            }
        }
        arrows
    }

    /// The module that a path leads to; none if it is of another crate.
    fn follow(&self, from: &Module, path: &[String], names: &Names) -> Option<Module> {
        let mut at = match path.first()?.as_str() {
            "crate" => Module::new(),
            "self" | "super" => from.clone(),
            name => self.modules.contains_key(&child(from, name)).then(|| from.clone())?,
        };
        for part in path {
            match part.as_str() {
                "crate" | "self" => {}
                "super" => drop(at.pop()),
                name if self.modules.contains_key(&child(&at, name)) => at.push(name.to_owned()),
                // What a module has from another one is that one's.
                name => return Some(names.get(&child(&at, name)).cloned().unwrap_or(at)),
            }
        }
        Some(at)
    }

    /// What the modules have from others, by its path in them.
    fn names(&self) -> Names {
        let mut names = Names::new();
        for (module, seen) in &self.modules {
            for (path, name) in &seen.uses {
                let to = self.follow(module, path, &Names::new());
                names.extend(to.map(|to| (child(module, name), to)));
            }
        }
        names
    }
}

type Names = BTreeMap<Module, Module>;

fn child(module: &Module, name: &str) -> Module {
    [module.as_slice(), &[name.to_owned()]].concat()
}

/// What a file says.
#[derive(Default)]
struct Seen {
    /// What is imported, and under which name.
    uses: Vec<(Vec<String>, String)>,
    /// Paths where they are used.
    paths: Vec<Vec<String>>,
    /// The modules that are other files,
    modules: Vec<String>,
    /// and those of them that are only for tests.
    tests: Vec<String>,
}

impl Seen {
    fn tree(&mut self, before: &[String], tree: &UseTree) {
        let with = |name: &dyn ToString| [before, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.tree(&with(&path.ident), &path.tree),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.tree(before, tree)),
            UseTree::Name(name) => self.uses.push((with(&name.ident), name.ident.to_string())),
            UseTree::Rename(name) => self.uses.push((with(&name.ident), name.rename.to_string())),
            UseTree::Glob(_) => self.uses.push((before.to_vec(), "*".to_owned())),
        }
    }
}

impl Visit<'_> for Seen {
    fn visit_item(&mut self, item: &Item) {
        let (attributes, file) = match item {
            Item::Mod(item) if item.content.is_none() => (&item.attrs, Some(&item.ident)),
            Item::Mod(item) => (&item.attrs, None),
            Item::Use(item) => (&item.attrs, None),
            Item::Fn(item) => (&item.attrs, None),
            Item::Impl(item) => (&item.attrs, None),
            _ => return visit::visit_item(self, item),
        };
        let is_test = |attribute: &Attribute| {
            attribute.path().is_ident("cfg")
                && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"))
        };
        let is_test = attributes.iter().any(is_test);
        let list = if is_test { &mut self.tests } else { &mut self.modules };
        list.extend(file.map(ToString::to_string));
        match item {
            _ if is_test => {}
            Item::Use(item) => self.tree(&[], &item.tree),
            _ => visit::visit_item(self, item),
        }
    }

    fn visit_path(&mut self, path: &syn::Path) {
        self.paths.push(path.segments.iter().map(|part| part.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    /// What is given to a macro are words, and among them may be paths.
    fn visit_macro(&mut self, call: &Macro) {
        let words = call.tokens.to_string().replace(' ', "");
        let words = words.split(|c: char| !c.is_alphanumeric() && !['_', ':'].contains(&c));
        let paths = words.map(|word| word.split("::").map(str::to_owned).collect());
        self.paths.extend(paths);
        visit::visit_macro(self, call);
    }
}
