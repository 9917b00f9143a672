//! Properties and faults of a fake virtio device.

use super::super::Trouble;

/// Faults besides [`Trouble`]. Requests are counted as there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The device clears FEATURES_OK.
    FeaturesRefused,
    /// This request completes under another id.
    WrongId(u32, u32),
    /// With this request, the used index advances by this many.
    IndexJumps(u32, u16),
    /// For this request, the reported length is this many bytes too small.
    ShortLength(u32, u32),
    /// For this request, the reported length is one byte more than the room.
    LongLength(u32),
    /// This request's status byte, or SCSI response, is not written.
    StatusUnwritten(u32),
    /// After the next reset, the disk has this many sectors.
    CapacityShrinks(u64),
    /// The last capability points to the first.
    CapabilityLoop,
    /// There are no modern registers: no capabilities on PCI, version 1 on MMIO.
    LegacyOnly,
    /// The device has the modern registers, but not VERSION_1.
    NotVersion1,
    /// The disk is read-only.
    ReadOnly,
    /// The queue's notification register is beyond the notification structure.
    NotifyOutside,
    /// The configuration generation changes with every read.
    GenerationRuns,
    /// The queue's enable register stays 0.
    QueueStaysDisabled,
    /// The queue's enable register is 1 after a reset.
    QueueStaysEnabled,
    /// The queue size register is read-only.
    QueueSizeStuck,
    /// It has no queues.
    NoQueues,
    /// The device fails when started.
    NeverStarts,
    /// virtio-blk: this request fails with the given status byte and moves no data.
    Status(u32, u8),
    /// virtio-scsi: this request fails with sense data of this form (0x70 to 0x73), key, additional code and
    /// qualifier, and moves no data, unless the key is that of a recovered error.
    Sense(u32, u8, u8, (u8, u8)),
    /// virtio-scsi: this request and all after it get this SCSI status, and move no data.
    ScsiStatusFrom(u32, u8),
    /// virtio-scsi: this request gets this SCSI status, and moves no data.
    ScsiStatus(u32, u8),
    /// virtio-scsi: this request gets this response, and moves no data.
    Response(u32, u8),
    /// virtio-scsi: this request gets a residual count, though all is moved.
    Residual(u32, u32),
    /// virtio-scsi: commands with this operation code fail with this sense key, additional code and
    /// qualifier.
    Operation(u8, u8, (u8, u8)),
    /// virtio-scsi: answers to commands are at most this many bytes long.
    ShortAnswers(u32),
}

/// The device's bus.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Front {
    /// A PCI function with this device id.
    Pci(u16),
    /// A window of registers.
    Mmio,
}

/// The length that a device reports for successful requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Counts {
    /// All of it, as specified.
    #[default]
    All,
    /// The data that was read, without the status: kvmtool, Cloud Hypervisor up to 51.
    Data,
    /// Only the status, for any request: bhyve.
    Status,
    /// Nothing: vhost-scsi.
    Nothing,
}

/// A SCSI host, and the disk on it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScsiPlan {
    /// The disk's address: target and unit.
    pub disk: (u8, u16),
    /// Units that are something else: target, unit, and the first byte of their inquiry data.
    pub others: Vec<(u8, u16, u8)>,
    /// The largest target.
    pub max_target: u16,
    /// The largest unit.
    pub max_lun: u32,
    /// Maximum number of sectors per transfer.
    pub max_sectors: u32,
    /// Maximum number of commands at once.
    pub cmd_per_lun: u32,
    /// Bytes of sense data.
    pub sense_size: u32,
    /// Bytes of a command descriptor block.
    pub cdb_size: u32,
    /// Bytes in a block of the disk.
    pub block: u32,
    /// The protection byte of READ CAPACITY.
    pub protection: u8,
    /// Number of unit attentions after a reset.
    pub attentions: u32,
    /// After those, the disk is becoming ready for this many commands.
    pub not_ready: u32,
    /// Sense data has descriptor format.
    pub descriptors: bool,
    /// The disk supports SYNCHRONIZE CACHE.
    pub flush: bool,
    /// The disk supports MODE SENSE.
    pub mode_sense: bool,
}

impl Default for ScsiPlan {
    fn default() -> ScsiPlan {
        ScsiPlan {
            disk: (0, 0),
            others: Vec::new(),
            max_target: 255,
            max_lun: 16383,
            max_sectors: 0xffff,
            cmd_per_lun: 128,
            sense_size: 96,
            cdb_size: 32,
            block: 512,
            protection: 0,
            attentions: 1,
            not_ready: 0,
            descriptors: false,
            flush: true,
            mode_sense: true,
        }
    }
}

/// The device and its faults.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The device's bus.
    pub front: Front,
    /// A SCSI host; `None`: a block device.
    pub scsi: Option<ScsiPlan>,
    /// Size of the queue.
    pub queue_size: u16,
    /// Bytes between notification registers.
    pub notify_multiplier: u32,
    /// Index of the notification register.
    pub notify_off: u16,
    /// Maximum number of bytes per segment, if limited.
    pub size_max: Option<u32>,
    /// Maximum number of segments. `None`: one for a block device, 126 for a SCSI host.
    pub seg_max: Option<u32>,
    /// Block size, if reported.
    pub blk_size: Option<u32>,
    /// Whether there is a cache to flush. Data not flushed is lost at a reset.
    pub flush: bool,
    /// Other features that are offered and must be accepted.
    pub required_features: u64,
    /// Reads of the clock until a request completes: the minimum, and the maximum on top of it.
    pub delay: (u32, u32),
    /// Whether requests complete in any order.
    pub shuffle: bool,
    /// The length that it reports.
    pub counts: Counts,
    /// The device suppresses notifications, and polls.
    pub no_notify: bool,
    /// Reads of the clock until a reset is complete.
    pub reset_ticks: u32,
    /// The faults.
    pub faults: Vec<Fault>,
    /// The faults of disks of any kind.
    pub troubles: Vec<Trouble>,
    /// For delays and order.
    pub seed: u64,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan {
            front: Front::Pci(0x1042),
            scsi: None,
            queue_size: 256,
            notify_multiplier: 4,
            notify_off: 0,
            size_max: None,
            seg_max: Some(254),
            blk_size: Some(512),
            flush: true,
            required_features: 0,
            delay: (0, 0),
            shuffle: false,
            counts: Counts::All,
            no_notify: false,
            reset_ticks: 0,
            faults: Vec::new(),
            troubles: Vec::new(),
            seed: 1,
        }
    }
}

impl Plan {
    /// An ordinary device with one fault.
    pub fn with(fault: Fault) -> Plan {
        Plan { faults: vec![fault], ..Plan::default() }
    }

    /// An ordinary device with one trouble.
    pub fn troubled(trouble: Trouble) -> Plan {
        Plan { troubles: vec![trouble], ..Plan::default() }
    }

    /// An ordinary SCSI host.
    pub fn scsi() -> Plan {
        Plan { front: Front::Pci(0x1048), scsi: Some(ScsiPlan::default()), ..Plan::default() }
    }
}

impl From<Fault> for Plan {
    fn from(fault: Fault) -> Plan {
        Plan::with(fault)
    }
}

impl From<Trouble> for Plan {
    fn from(trouble: Trouble) -> Plan {
        Plan::troubled(trouble)
    }
}
