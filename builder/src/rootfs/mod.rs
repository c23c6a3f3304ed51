//! Steps that make the root's tree: what is taken from packages, what maintainer scripts would have done, what is ours.

pub(crate) mod etc;
pub(crate) mod kernel;
pub(crate) mod packages;
