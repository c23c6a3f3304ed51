//! A connection to a member that is asked again and again: a new one each time would cost both sides a TLS handshake.

use super::Gateway;

/// It is kept as long as answers are good; after another there is a new one, as certificates may be others by now.
pub(super) struct Connection<O> {
    open: O,
    gateway: Option<Gateway>,
}

impl<O: Fn() -> Result<Gateway, String>> Connection<O> {
    /// None yet; `open` makes one.
    pub(super) fn new(open: O) -> Self {
        Self { open, gateway: None }
    }

    /// Asks a question, whose answer is good or not; none = there is no connection to ask over, which is this node's fault (it has
    /// no certificate, say).
    pub(super) fn ask<T>(
        &mut self,
        question: impl FnOnce(&Gateway) -> T,
        is_good: impl FnOnce(&T) -> bool,
    ) -> Option<T> {
        let gateway = match self.gateway.take() {
            Some(there) => there,
            None => (self.open)().ok()?,
        };
        let answer = question(&gateway);
        self.gateway = is_good(&answer).then_some(gateway);
        Some(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn one_is_kept_while_answers_are_good() {
        let opened = Cell::new(0);
        let mut member = Connection::new(|| {
            opened.set(opened.get() + 1);
            match opened.get() {
                3 => Err("no certificate".into()),
                _ => Ok(Gateway { agent: ureq::Agent::new_with_defaults(), url: String::new() }),
            }
        });
        assert_eq!(member.ask(|_| 1, |_| true), Some(1));
        assert_eq!(member.ask(|_| 2, |answer| *answer != 2), Some(2));
        assert_eq!(opened.get(), 1);
        assert_eq!(member.ask(|_| 3, |_| false), Some(3));
        assert_eq!(member.ask(|_| 4, |_| true), None, "it could not be opened");
        assert_eq!(member.ask(|_| 5, |_| true), Some(5));
        assert_eq!(opened.get(), 4);
    }
}
