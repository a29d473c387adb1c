//! The server's rules for Secrets.

use serde_json::Value;

/// Refuses what the server would.
pub(super) fn validate(new: &Value, old: Option<&Value>) -> Result<(), (u16, String)> {
    let data = match &new["data"] {
        Value::Null => return same_type(new, old),
        Value::Object(data) => data,
        _ => return Err((400, "json: cannot unmarshal into Go struct field Secret.data".into())),
    };
    for (name, value) in data {
        let is_name_char = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.len() > 253 || !name.chars().all(is_name_char) {
            return Err((
                422,
                format!(
                    "data[{name}]: Invalid value: a valid config key must consist of alphanumeric characters, '-', '_' or '.'"
                ),
            ));
        }
        let text = value.as_str().unwrap_or("?");
        if data_encoding::BASE64.decode(text.as_bytes()).is_err() {
            return Err((400, "illegal base64 data at input byte 0".into()));
        }
    }
    if old.is_some_and(|old| old["immutable"] == true && old["data"] != new["data"]) {
        return Err((422, "data: Forbidden: field is immutable when `immutable` is set".into()));
    }
    same_type(new, old)
}

fn same_type(new: &Value, old: Option<&Value>) -> Result<(), (u16, String)> {
    match old {
        Some(old) if old["type"] != new["type"] => {
            Err((422, format!("type: Invalid value: {}: field is immutable", new["type"])))
        }
        _ => Ok(()),
    }
}
