//! Typed reading of a TOML table that goes on after a problem, so that all of them are reported.

use std::{cell::RefCell, ops::RangeInclusive};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::Problem;

/// Collects problems; shared by everything that reads one file.
pub(super) struct Problems<'a> {
    text: &'a str,
    list: RefCell<Vec<(usize, Problem)>>,
}

impl<'a> Problems<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, list: RefCell::default() }
    }

    /// Notes a problem at a byte offset of the file.
    pub(super) fn add(&self, at: usize, field: &str, message: impl Into<String>) {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        let problem = Problem {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            field: field.to_owned(),
            message: message.into(),
        };
        self.list.borrow_mut().push((at, problem));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.borrow().is_empty()
    }

    pub(super) fn into_list(self) -> Vec<Problem> {
        let mut list = self.list.into_inner();
        list.sort_by_key(|(at, _)| *at);
        list.into_iter().map(|(_, problem)| problem).collect()
    }
}

/// A table of the file.
pub(super) struct Table<'a> {
    table: &'a DeTable<'a>,
    at: usize,
    path: String,
    problems: &'a Problems<'a>,
}

impl<'a> Table<'a> {
    pub(super) fn root(root: &'a Spanned<DeTable<'a>>, problems: &'a Problems<'a>) -> Self {
        Self { table: root.get_ref(), at: 0, path: String::new(), problems }
    }

    /// Whether nothing in the file was refused so far.
    pub(super) fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }

    fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// Refuses every field that is not one of `known`, with the nearest of them.
    pub(super) fn only(&self, known: &[&str]) {
        for key in self.table.keys() {
            let name = key.get_ref().as_ref();
            if known.contains(&name) {
                continue;
            }
            let nearest = known
                .iter()
                .map(|k| (strsim::damerau_levenshtein(k, name), *k))
                .min()
                .filter(|(distance, k)| *distance <= k.len().max(name.len()) / 2);
            let hint = match nearest {
                Some((_, nearest)) => format!("did you mean `{nearest}`?"),
                None => format!("known here: {}", known.join(", ")),
            };
            let message = format!("there is no such field; {hint}");
            self.problems.add(key.span().start, &self.path_of(name), message);
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<Field<'a>> {
        let value = self.table.get(name)?;
        Some(Field { value, path: self.path_of(name), problems: self.problems })
    }

    /// A field that must be there; `right` says what to write.
    pub(super) fn required(&self, name: &str, right: &str) -> Option<Field<'a>> {
        let field = self.get(name);
        if field.is_none() {
            let message = format!("is missing; write {right}");
            self.problems.add(self.at, &self.path_of(name), message);
        }
        field
    }

    /// A table inside this one.
    pub(super) fn table(&self, name: &str) -> Option<Table<'a>> {
        self.get(name)?.table(name)
    }

    /// The tables of `[[name]]`, in order.
    pub(super) fn tables(&self, name: &str) -> Vec<Table<'a>> {
        let Some(field) = self.get(name) else { return Vec::new() };
        if field.value.get_ref().as_array().is_none() {
            field.refuse(format!("is {}; write [[{name}]]", field.kind()));
            return Vec::new();
        }
        field.list().into_iter().filter_map(|item| item.table(name)).collect()
    }
}

/// A value of the file, with its place.
#[derive(Clone)]
pub(super) struct Field<'a> {
    value: &'a Spanned<DeValue<'a>>,
    path: String,
    problems: &'a Problems<'a>,
}

impl<'a> Field<'a> {
    /// Notes that this value is not right.
    pub(super) fn refuse(&self, message: impl Into<String>) {
        self.problems.add(self.value.span().start, &self.path, message);
    }

    fn kind(&self) -> &'static str {
        match self.value.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        }
    }

    fn table(self, name: &str) -> Option<Table<'a>> {
        let Some(table) = self.value.get_ref().as_table() else {
            self.refuse(format!("is {}; write a table, [{name}]", self.kind()));
            return None;
        };
        let at = self.value.span().start;
        Some(Table { table, at, path: self.path, problems: self.problems })
    }

    pub(super) fn is_list(&self) -> bool {
        self.value.get_ref().is_array()
    }

    /// The string; `right` says what to write instead of another type.
    pub(super) fn text(&self, right: &str) -> Option<&'a str> {
        let text = self.value.get_ref().as_str();
        if text.is_none() {
            self.refuse(format!("is {}; write {right} in quotes", self.kind()));
        }
        text
    }

    /// An integer within `range`.
    pub(super) fn integer(&self, range: RangeInclusive<i64>) -> Option<i64> {
        let (low, high) = (range.start(), range.end());
        let Some(number) = self.value.get_ref().as_integer() else {
            self.refuse(format!("is {}; write a number, {low} to {high}", self.kind()));
            return None;
        };
        let value = i64::from_str_radix(number.as_str(), number.radix()).ok();
        let value = value.filter(|value| range.contains(value));
        if value.is_none() {
            self.refuse(format!("is {number}; write a number, {low} to {high}"));
        }
        value
    }

    /// Yes or no.
    pub(super) fn boolean(&self) -> Option<bool> {
        let value = self.value.get_ref().as_bool();
        if value.is_none() {
            self.refuse(format!("is {}; write true or false", self.kind()));
        }
        value
    }

    /// The items of a list.
    pub(super) fn list(&self) -> Vec<Field<'a>> {
        let Some(array) = self.value.get_ref().as_array() else {
            self.refuse(format!("is {}; write a list, [...]", self.kind()));
            return Vec::new();
        };
        let item = |(i, value)| Field {
            value,
            path: format!("{}[{i}]", self.path),
            problems: self.problems,
        };
        array.iter().enumerate().map(item).collect()
    }
}
