# The boot sector behind the KVM probe of accel.py, which holds it assembled:
#
#   as kvm_probe.S -o probe.o && ld -Ttext 0x7c00 -e start -o probe.elf probe.o
#   objcopy -O binary -j .text probe.elf probe.bin
#
# It does in a few milliseconds what an operating system does all the time: it enters long mode, changes page
# tables while they are in use, and counts. A hypervisor that interprets instructions one by one
# runs firmware and simple boot sectors as if all were well, but needs minutes for this. At the end it writes
# K to the first serial port and leaves QEMU through isa-debug-exit.

        .code16
        .globl start
start:
        cli
        xorw %ax, %ax
        movw %ax, %ds
        movw %ax, %es
        movw %ax, %ss
        movw $0x7c00, %sp
        cld
        movw $0x1000, %di               # clear three page tables at 0x1000
        movw $0x2000, %cx
        rep stosw
        movl $0x2003, 0x1000            # level 4 -> level 3
        movl $0x3003, 0x2000            # level 3 -> level 2
        movl $0x0083, 0x3000            # level 2: the first 2 MiB as they are
        movl $0x1000, %eax
        movl %eax, %cr3
        movl %cr4, %eax
        orl $0x20, %eax                 # PAE
        movl %eax, %cr4
        movl $0xc0000080, %ecx          # EFER.LME
        rdmsr
        orl $0x100, %eax
        wrmsr
        lgdtw gdtr
        movl %cr0, %eax
        orl $0x80000001, %eax           # paging, protection
        movl %eax, %cr0
        ljmpw $8, $long

        .code64
long:
        movl $0x205000, %edi
        movl $1000, %ebp
remap:
        movl $0x83, 0x3008              # the second 2 MiB now mean the first
        invlpg (%rdi)
        movl %ebp, (%rdi)
        cmpl 0x5000, %ebp
        jne fail
        movl $0x200083, 0x3008          # and now themselves
        invlpg (%rdi)
        movl $0, (%rdi)
        cmpl 0x5000, %ebp
        jne fail
        movq %cr3, %rax
        movq %rax, %cr3
        decl %ebp
        jnz remap

        movl $50000000, %ecx
count:
        decl %ecx
        jnz count

        movw $0x3f8, %dx
        movb $'K', %al
        outb %al, %dx
fail:
        movw $0xf4, %dx
        outb %al, %dx
halt:
        hlt
        jmp halt

        .balign 8
gdt:
        .quad 0
        .quad 0x00209a0000000000        # 64-bit code
gdtr:
        .word 15
        .long gdt
