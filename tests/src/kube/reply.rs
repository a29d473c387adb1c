//! Answers, in the server's words.

use std::{convert::Infallible, io};

use futures_util::{StreamExt as _, stream::BoxStream};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Response,
    body::{Bytes, Frame},
};
use serde_json::{Value, json};

pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// An answer with an object.
pub(super) fn object(status: u16, object: &Value) -> Response<Body> {
    let body = Full::new(Bytes::from(object.to_string()));
    let body = body.map_err(|never: Infallible| match never {}).boxed_unsync();
    response(status, body)
}

/// An answer that goes on; an error breaks it off.
pub(super) fn stream(lines: BoxStream<'static, io::Result<Bytes>>) -> Response<Body> {
    response(200, StreamBody::new(lines.map(|line| line.map(Frame::data))).boxed_unsync())
}

fn response(status: u16, body: Body) -> Response<Body> {
    Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .body(body)
        .expect("a response")
}

/// A Status object for what went wrong.
pub(super) fn status(code: u16, message: &str) -> Value {
    let reason = match code {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        405 => "MethodNotAllowed",
        409 => "Conflict",
        410 => "Expired",
        415 => "UnsupportedMediaType",
        422 => "Invalid",
        429 => "TooManyRequests",
        500 => "InternalError",
        503 => "ServiceUnavailable",
        _ => "",
    };
    let mut status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    });
    if code == 429 {
        status["details"] = json!({"retryAfterSeconds": 1});
    }
    status
}

/// An answer that says what went wrong.
pub(super) fn refusal(code: u16, message: &str) -> Response<Body> {
    object(code, &status(code, message))
}

/// The same, which asks to be tried again after some seconds; 0 asks nothing.
pub(super) fn refusal_for(code: u16, message: &str, seconds: u32) -> Response<Body> {
    let mut status = status(code, message);
    if seconds > 0 {
        status["details"] = json!({"retryAfterSeconds": seconds});
    }
    object(code, &status)
}
