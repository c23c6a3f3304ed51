//! What holds on real images in real VMs, one claim per file. They are one program, so that as much runs at a time as the
//! machine bears (`qemu_tests::cores`), and so that what several need is booted once.

mod apply;
mod cli;
mod clock;
mod cluster;
mod damage;
mod etcd;
mod faults;
mod first_boot;
mod image;
mod kubernetes;
mod lb;
mod lb_config;
mod lb_external;
mod lb_masters;
mod maintenance;
mod offline;
mod pid1;
mod renewal;
mod restore;
mod seed_url;
mod stacked;
mod state_disk;
mod topologies;
