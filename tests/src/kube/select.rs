//! Label and field selectors. Not by `kube`'s reader of them: what the daemon's own library got wrong
//! would be wrong on both sides.

use serde_json::Value;

/// Which objects a request is about.
#[derive(Debug, Clone, Default)]
pub(super) struct Selector {
    labels: Vec<Label>,
    fields: Vec<(String, String)>,
}

#[derive(Debug, Clone)]
enum Label {
    Is(String, String),
    Exists(String),
    IsAbsent(String),
}

impl Selector {
    /// From the query's values. `Err` is what the server says to a wrong one.
    pub(super) fn parse(labels: Option<&str>, fields: Option<&str>) -> Result<Self, String> {
        let parts = |text: Option<&str>| -> Vec<String> {
            let all = text.unwrap_or_default().split(',').filter(|part| !part.is_empty());
            all.map(str::to_owned).collect()
        };
        let labels = parts(labels).into_iter().map(|part| match part.split_once('=') {
            Some((key, value)) => Label::Is(key.into(), value.trim_start_matches('=').into()),
            None => match part.strip_prefix('!') {
                Some(key) => Label::IsAbsent(key.into()),
                None => Label::Exists(part),
            },
        });
        let fields = parts(fields).into_iter().map(|part| match part.split_once('=') {
            Some((key @ ("metadata.name" | "metadata.namespace"), value)) => {
                Ok((key.to_owned(), value.trim_start_matches('=').to_owned()))
            }
            _ => Err(format!("field label not supported: {part}")),
        });
        Ok(Self { labels: labels.collect(), fields: fields.collect::<Result<_, _>>()? })
    }

    pub(super) fn selects(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        let label = |label: &Label| match label {
            Label::Is(key, value) => labels[key] == Value::String(value.clone()),
            Label::Exists(key) => labels.get(key).is_some(),
            Label::IsAbsent(key) => labels.get(key).is_none(),
        };
        let field = |(path, value): &(String, String)| {
            let found = path.split('.').fold(object, |object, name| &object[name]);
            *found == Value::String(value.clone())
        };
        self.labels.iter().all(label) && self.fields.iter().all(field)
    }
}
