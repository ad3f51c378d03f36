package main

// modeHelp explains the flag --mode.
const modeHelp = "numeric mode: exact, bf16, int8, int4 or fp8, then roles of their own, " +
	"as in int4,head=bf16,kv=int8"
