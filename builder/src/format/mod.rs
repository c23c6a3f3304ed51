//! Formats: pure writers of bytes. None of them opens a file or asks for the time.

pub(crate) mod initrd;
pub(crate) mod iso9660;
pub(crate) mod oci;
pub(crate) mod squashfs;
