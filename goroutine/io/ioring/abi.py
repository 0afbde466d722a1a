"""The kernel's side of io_uring: system call numbers, flags, opcodes, struct layouts.

Source of truth: ``include/uapi/linux/io_uring.h`` of Linux 6.16 (the same file
is shipped by liburing) and the pages ``io_uring_setup(2)``,
``io_uring_enter(2)`` and ``io_uring_register(2)``.  Names are the header's
without ``IORING_``; ``IOSQE_`` and ``IOU_`` prefixes stay.

Structs are in the byte order of the machine, without padding.

Constants are plain integers, not enum members, on purpose: an enum member is
an ordinary object whose reference count all threads of a free-threaded
interpreter would fight over, and combining flags must cost nothing.
"""

from __future__ import annotations

import ctypes
from typing import Final

# --- system calls (the same numbers on every architecture but alpha) ---------

SYS_IO_URING_SETUP: Final = 425
SYS_IO_URING_ENTER: Final = 426
SYS_IO_URING_REGISTER: Final = 427

# --- io_uring_setup(2) ---------------------------------------------------------

SETUP_IOPOLL: Final = 1 << 0
SETUP_SQPOLL: Final = 1 << 1
SETUP_SQ_AFF: Final = 1 << 2
SETUP_CQSIZE: Final = 1 << 3
SETUP_CLAMP: Final = 1 << 4
SETUP_ATTACH_WQ: Final = 1 << 5
SETUP_R_DISABLED: Final = 1 << 6
SETUP_SUBMIT_ALL: Final = 1 << 7  # 5.18
SETUP_COOP_TASKRUN: Final = 1 << 8  # 5.19
SETUP_TASKRUN_FLAG: Final = 1 << 9  # 5.19
SETUP_SQE128: Final = 1 << 10
SETUP_CQE32: Final = 1 << 11
SETUP_SINGLE_ISSUER: Final = 1 << 12  # 6.0
SETUP_DEFER_TASKRUN: Final = 1 << 13  # 6.1
SETUP_NO_MMAP: Final = 1 << 14  # 6.5
SETUP_REGISTERED_FD_ONLY: Final = 1 << 15  # 6.5
SETUP_NO_SQARRAY: Final = 1 << 16  # 6.6
SETUP_HYBRID_IOPOLL: Final = 1 << 17  # 6.13

FEAT_SINGLE_MMAP: Final = 1 << 0
FEAT_NODROP: Final = 1 << 1
FEAT_SUBMIT_STABLE: Final = 1 << 2
FEAT_RW_CUR_POS: Final = 1 << 3
FEAT_CUR_PERSONALITY: Final = 1 << 4
FEAT_FAST_POLL: Final = 1 << 5
FEAT_POLL_32BITS: Final = 1 << 6
FEAT_SQPOLL_NONFIXED: Final = 1 << 7
FEAT_EXT_ARG: Final = 1 << 8
FEAT_NATIVE_WORKERS: Final = 1 << 9
FEAT_RSRC_TAGS: Final = 1 << 10
FEAT_CQE_SKIP: Final = 1 << 11
FEAT_LINKED_FILE: Final = 1 << 12
FEAT_REG_REG_RING: Final = 1 << 13
FEAT_RECVSEND_BUNDLE: Final = 1 << 14
FEAT_MIN_TIMEOUT: Final = 1 << 15
FEAT_RW_ATTR: Final = 1 << 16
FEAT_NO_IOWAIT: Final = 1 << 17

OFF_SQ_RING: Final = 0
OFF_SQES: Final = 0x10000000

# struct io_uring_params: 10 words, then struct io_sqring_offsets and
# struct io_cqring_offsets (8 words and one 64-bit word each).
PARAMS_SIZE: Final = 120
PARAMS_HEAD: Final = "=7I"  # sq_entries cq_entries flags thread_cpu thread_idle features wq_fd
PARAMS_SQ_OFF: Final = 40
PARAMS_CQ_OFF: Final = 80
SQ_OFFSETS: Final = "=7I"  # head tail ring_mask ring_entries flags dropped array
CQ_OFFSETS: Final = "=7I"  # head tail ring_mask ring_entries overflow cqes flags

# Bits of the SQ ring's flags word.
SQ_NEED_WAKEUP: Final = 1 << 0
SQ_CQ_OVERFLOW: Final = 1 << 1
SQ_TASKRUN: Final = 1 << 2

# --- io_uring_enter(2) -----------------------------------------------------------

ENTER_GETEVENTS: Final = 1 << 0
ENTER_SQ_WAKEUP: Final = 1 << 1
ENTER_SQ_WAIT: Final = 1 << 2
ENTER_EXT_ARG: Final = 1 << 3
ENTER_REGISTERED_RING: Final = 1 << 4
ENTER_ABS_TIMER: Final = 1 << 5  # 6.12
ENTER_EXT_ARG_REG: Final = 1 << 6  # 6.13
ENTER_NO_IOWAIT: Final = 1 << 7  # 6.15


class GetEventsArg(ctypes.Structure):
    """``struct io_uring_getevents_arg``: what ENTER_EXT_ARG passes."""

    _fields_ = (
        ("sigmask", ctypes.c_uint64),
        ("sigmask_sz", ctypes.c_uint32),
        ("min_wait_usec", ctypes.c_uint32),  # 6.12
        ("ts", ctypes.c_uint64),  # address of a struct __kernel_timespec: seconds, nanoseconds
    )


# --- submission queue entries ----------------------------------------------------

# struct io_uring_sqe: opcode flags ioprio fd off addr len op_flags user_data
#                      buf_index personality file_index addr3 pad
SQE: Final = "=BBHiQQIIQHHIQQ"
SQE_SIZE: Final = 64
SQE_WORDS: Final = 8

IOSQE_FIXED_FILE: Final = 1 << 0
IOSQE_IO_DRAIN: Final = 1 << 1
IOSQE_IO_LINK: Final = 1 << 2
IOSQE_IO_HARDLINK: Final = 1 << 3
IOSQE_ASYNC: Final = 1 << 4
IOSQE_BUFFER_SELECT: Final = 1 << 5
IOSQE_CQE_SKIP_SUCCESS: Final = 1 << 6

FILE_INDEX_ALLOC: Final = 0xFFFFFFFF
CURRENT_POSITION: Final = 0xFFFFFFFFFFFFFFFF  # sqe.off: read or write at the file's own position

OP_NOP: Final = 0
OP_READV: Final = 1
OP_WRITEV: Final = 2
OP_FSYNC: Final = 3
OP_READ_FIXED: Final = 4
OP_WRITE_FIXED: Final = 5
OP_POLL_ADD: Final = 6
OP_POLL_REMOVE: Final = 7
OP_SYNC_FILE_RANGE: Final = 8
OP_SENDMSG: Final = 9
OP_RECVMSG: Final = 10
OP_TIMEOUT: Final = 11
OP_TIMEOUT_REMOVE: Final = 12
OP_ACCEPT: Final = 13
OP_ASYNC_CANCEL: Final = 14
OP_LINK_TIMEOUT: Final = 15
OP_CONNECT: Final = 16
OP_FALLOCATE: Final = 17
OP_OPENAT: Final = 18
OP_CLOSE: Final = 19
OP_FILES_UPDATE: Final = 20
OP_STATX: Final = 21
OP_READ: Final = 22
OP_WRITE: Final = 23
OP_FADVISE: Final = 24
OP_MADVISE: Final = 25
OP_SEND: Final = 26
OP_RECV: Final = 27
OP_OPENAT2: Final = 28
OP_EPOLL_CTL: Final = 29
OP_SPLICE: Final = 30
OP_PROVIDE_BUFFERS: Final = 31
OP_REMOVE_BUFFERS: Final = 32
OP_TEE: Final = 33
OP_SHUTDOWN: Final = 34
OP_RENAMEAT: Final = 35
OP_UNLINKAT: Final = 36
OP_MKDIRAT: Final = 37
OP_SYMLINKAT: Final = 38
OP_LINKAT: Final = 39
OP_MSG_RING: Final = 40
OP_FSETXATTR: Final = 41
OP_SETXATTR: Final = 42
OP_FGETXATTR: Final = 43
OP_GETXATTR: Final = 44
OP_SOCKET: Final = 45
OP_URING_CMD: Final = 46
OP_SEND_ZC: Final = 47
OP_SENDMSG_ZC: Final = 48  # the last one 6.1 knows
OP_READ_MULTISHOT: Final = 49
OP_WAITID: Final = 50
OP_FUTEX_WAIT: Final = 51
OP_FUTEX_WAKE: Final = 52
OP_FUTEX_WAITV: Final = 53
OP_FIXED_FD_INSTALL: Final = 54
OP_FTRUNCATE: Final = 55
OP_BIND: Final = 56
OP_LISTEN: Final = 57
OP_RECV_ZC: Final = 58
OP_EPOLL_WAIT: Final = 59
OP_READV_FIXED: Final = 60
OP_WRITEV_FIXED: Final = 61
OP_PIPE: Final = 62

# Flags of single operations; the comment names the SQE field they go into.
FSYNC_DATASYNC: Final = 1 << 0  # op_flags
POLL_ADD_MULTI: Final = 1 << 0  # length
POLL_UPDATE_EVENTS: Final = 1 << 1  # length
POLL_UPDATE_USER_DATA: Final = 1 << 2  # length
POLL_ADD_LEVEL: Final = 1 << 3  # length
ASYNC_CANCEL_ALL: Final = 1 << 0  # op_flags
ASYNC_CANCEL_FD: Final = 1 << 1  # op_flags
ASYNC_CANCEL_ANY: Final = 1 << 2  # op_flags
ASYNC_CANCEL_FD_FIXED: Final = 1 << 3  # op_flags
ASYNC_CANCEL_USERDATA: Final = 1 << 4  # op_flags
ASYNC_CANCEL_OP: Final = 1 << 5  # op_flags
RECVSEND_POLL_FIRST: Final = 1 << 0  # ioprio
RECV_MULTISHOT: Final = 1 << 1  # ioprio
RECVSEND_FIXED_BUF: Final = 1 << 2  # ioprio
SEND_ZC_REPORT_USAGE: Final = 1 << 3  # ioprio
RECVSEND_BUNDLE: Final = 1 << 4  # ioprio
ACCEPT_MULTISHOT: Final = 1 << 0  # ioprio
ACCEPT_DONTWAIT: Final = 1 << 1  # ioprio
ACCEPT_POLL_FIRST: Final = 1 << 2  # ioprio
TIMEOUT_ABS: Final = 1 << 0  # op_flags
TIMEOUT_ETIME_SUCCESS: Final = 1 << 5  # op_flags
TIMEOUT_MULTISHOT: Final = 1 << 6  # op_flags
MSG_DATA: Final = 0  # addr
MSG_SEND_FD: Final = 1  # addr
MSG_RING_CQE_SKIP: Final = 1 << 0  # op_flags
MSG_RING_FLAGS_PASS: Final = 1 << 1  # op_flags

# --- completion queue entries ----------------------------------------------------

CQE: Final = "=QiI"  # struct io_uring_cqe: user_data res flags
CQE_SIZE: Final = 16

CQE_F_BUFFER: Final = 1 << 0
CQE_F_MORE: Final = 1 << 1
CQE_F_SOCK_NONEMPTY: Final = 1 << 2
CQE_F_NOTIF: Final = 1 << 3
CQE_F_BUF_MORE: Final = 1 << 4
CQE_BUFFER_SHIFT: Final = 16

# --- io_uring_register(2) --------------------------------------------------------

REGISTER_BUFFERS: Final = 0
UNREGISTER_BUFFERS: Final = 1
REGISTER_FILES: Final = 2
UNREGISTER_FILES: Final = 3
REGISTER_EVENTFD: Final = 4
UNREGISTER_EVENTFD: Final = 5
REGISTER_FILES_UPDATE: Final = 6
REGISTER_EVENTFD_ASYNC: Final = 7
REGISTER_PROBE: Final = 8
REGISTER_PERSONALITY: Final = 9
UNREGISTER_PERSONALITY: Final = 10
REGISTER_RESTRICTIONS: Final = 11
REGISTER_ENABLE_RINGS: Final = 12
REGISTER_FILES2: Final = 13
REGISTER_FILES_UPDATE2: Final = 14
REGISTER_BUFFERS2: Final = 15
REGISTER_BUFFERS_UPDATE: Final = 16
REGISTER_IOWQ_AFF: Final = 17
UNREGISTER_IOWQ_AFF: Final = 18
REGISTER_IOWQ_MAX_WORKERS: Final = 19
REGISTER_RING_FDS: Final = 20
UNREGISTER_RING_FDS: Final = 21
REGISTER_PBUF_RING: Final = 22
UNREGISTER_PBUF_RING: Final = 23
REGISTER_SYNC_CANCEL: Final = 24
REGISTER_FILE_ALLOC_RANGE: Final = 25
REGISTER_PBUF_STATUS: Final = 26  # 6.8
REGISTER_NAPI: Final = 27
UNREGISTER_NAPI: Final = 28
REGISTER_CLOCK: Final = 29

RSRC_UPDATE: Final = "=IIQ"  # struct io_uring_rsrc_update: offset resv data
RSRC_UPDATE_SIZE: Final = 16
RING_FD_ANY_SLOT: Final = 0xFFFFFFFF  # rsrc_update.offset: the kernel picks the slot

PROBE_HEAD_SIZE: Final = 16  # struct io_uring_probe: last_op ops_len resv[14]
PROBE_OP: Final = "=BBHI"  # struct io_uring_probe_op: op resv flags resv2
PROBE_OPS_MAX: Final = 256
PROBE_OP_SUPPORTED: Final = 1 << 0

BUF: Final = "=QIH"  # struct io_uring_buf: addr len bid (resv: slot 0's is the ring's tail)
BUF_SIZE: Final = 16
BUF_RING_TAIL: Final = 14
BUF_RING_MAX: Final = 32768
BUF_REG: Final = "=QIHHQQQ"  # struct io_uring_buf_reg: ring_addr ring_entries bgid flags resv[3]
BUF_STATUS: Final = "=II32x"  # struct io_uring_buf_status: buf_group head resv[8]
IOU_PBUF_RING_MMAP: Final = 1
IOU_PBUF_RING_INC: Final = 2

# struct io_uring_sync_cancel_reg: addr fd flags timeout(sec nsec) opcode pad
SYNC_CANCEL_REG: Final = "=QiIqqB31x"

# --- names, for messages and debugging -------------------------------------------

OP_NAMES: Final[dict[int, str]] = {
    value: name[3:]
    for name, value in list(globals().items())
    if name.startswith("OP_") and isinstance(value, int)
}
