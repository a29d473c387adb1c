//! How keys are written, for all commands that take one.

use crate::maps::key::Form;

/// How keys and chats are written.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct FormArgs {
    /// Take keys for text, even where the service has a key source that takes an address and they
    /// read as one
    #[arg(long)]
    pub text: bool,
}

impl FormArgs {
    /// The form that is asked for.
    pub fn form(self) -> Form {
        Form { text: self.text }
    }
}
