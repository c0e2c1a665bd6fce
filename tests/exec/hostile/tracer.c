/* Traces the process whose number comes through the FIFO /traced, and never asks what becomes of it: its parent then
 * cannot reap it (ptrace(2)). */
#include <stdio.h>
#include <sys/ptrace.h>
#include <unistd.h>

int main(void)
{
    int pid;
    FILE *fifo = fopen("/traced", "r");
    if (fifo == NULL || fscanf(fifo, "%d", &pid) != 1 || ptrace(PTRACE_SEIZE, pid, 0, 0) != 0)
        return 1;
    for (;;)
        pause();
}
