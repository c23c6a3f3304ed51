// The tiny guest that shows whether KVM runs one (accel.rs). A firmware: the processor begins at its last 16 bytes, in real
// mode, and writes to QEMU's debug-exit port (0xf4), which ends QEMU with a status that tells it did.
//
// It goes to protected mode first and adds with SSE2 there, as any kernel may. There are KVMs that run the supervisor of a guest
// in software, instruction by instruction, inside of VMs: their /dev/kvm opens, their emulation lacks such instructions,
// and a kernel comes no farther than its decompressor.

    .equ    ROM, 0xffff0000             // where 64 KiB of firmware lie; the processor's first CS has this base
    .equ    PORT, 0xf4
    .equ    VALUE, 0x2a                 // accel.rs knows it

    .text
    .globl  _start
_start:
    .code16
begin:
    lgdtl   %cs:(table - _start)
    mov     %cr0, %eax
    or      $0x3, %eax                  // PE: protected; MP
    and     $~0x4, %eax                 // no EM: there is a floating-point unit
    mov     %eax, %cr0
    ljmpl   $8, $(ROM + flat - _start)
    .code32
flat:
    mov     $16, %eax
    mov     %eax, %ds
    mov     %eax, %es
    mov     %eax, %ss
    mov     %cr4, %eax
    or      $0x600, %eax                // OSFXSR, OSXMMEXCPT: SSE is in use
    mov     %eax, %cr4
    mov     $(VALUE / 2), %eax
    movd    %eax, %xmm0
    paddd   %xmm0, %xmm0
    movd    %xmm0, %eax
    out     %al, $PORT
1:  hlt
    jmp     1b

    .balign 8
segments:
    .quad   0
    .quad   0x00cf9b000000ffff          // code: 4 GiB from 0, 32 bits
    .quad   0x00cf93000000ffff          // data: the same
table:
    .word   table - segments - 1
    .long   ROM + segments - _start

    .org    0xfff0
    .code16
    jmp     begin
    .org    0x10000
