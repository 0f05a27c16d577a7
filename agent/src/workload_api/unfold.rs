//! A stream made of a state and the step that gives its next item. Nothing runs unless the stream is polled, so each message
//! is made when the connection can take it, and dropping the stream ends everything that belongs to it.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use futures_core::Stream;

type Step<S, T> = Pin<Box<dyn Future<Output = Option<(T, S)>> + Send>>;

/// See the module.
pub(crate) struct Unfold<S, T> {
    current: Option<Step<S, T>>,
    step: fn(S) -> Step<S, T>,
}

/// Ends when `step` gives `None`. `first` is the first item, if it is there already.
pub(crate) fn unfold<S, T>(state: S, step: fn(S) -> Step<S, T>) -> Unfold<S, T> {
    Unfold { current: Some(step(state)), step }
}

impl<S, T> Stream for Unfold<S, T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let Some(current) = &mut self.current else { return Poll::Ready(None) };
        let Poll::Ready(next) = current.as_mut().poll(cx) else { return Poll::Pending };
        self.current = None;
        Poll::Ready(next.map(|(item, state)| {
            self.current = Some((self.step)(state));
            item
        }))
    }
}
