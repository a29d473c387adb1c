//! The two text formats, and which of them is wanted. `Accept` is read by hand: one of
//! two types is chosen, and what is not understood gets the first.

use hyper::header::{GetAll, HeaderValue};

/// A text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' own, 0.0.4: what is not asked for anything else gets it.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// What a scraper's `Accept` headers ask for.
    pub fn accepted(headers: GetAll<'_, HeaderValue>) -> Self {
        let headers = headers.into_iter().filter_map(|header| header.to_str().ok());
        let (mut text, mut open) = (0.0, 0.0);
        for range in headers.flat_map(|header| header.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default().to_ascii_lowercase();
            let weight = parts.find_map(|part| part.strip_prefix("q="));
            let weight = weight.map_or(1.0, |weight| weight.trim().parse().unwrap_or(0.0));
            match name.as_str() {
                "application/openmetrics-text" => open = f64::max(open, weight),
                "text/plain" => text = f64::max(text, weight),
                _ => {}
            }
        }
        if open > 0.0 && open >= text { Self::OpenMetrics } else { Self::Text }
    }

    /// Its media type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::{ACCEPT, HeaderMap};

    use super::*;

    #[test]
    fn scrapers_get_what_they_ask_for() {
        let prometheus = "application/openmetrics-text;version=1.0.0,\
            application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for (accept, format) in [
            ("", Format::Text),
            ("*/*", Format::Text),
            ("text/plain", Format::Text),
            (prometheus, Format::OpenMetrics),
            ("Application/OpenMetrics-Text", Format::OpenMetrics),
            ("text/plain, application/openmetrics-text; q=0.3", Format::Text),
            ("application/openmetrics-text; q=0", Format::Text),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
            assert_eq!(Format::accepted(headers.get_all(ACCEPT)), format, "{accept:?}");
        }
    }
}
